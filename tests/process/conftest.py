"""Applications for the real gunicorn, each in a folder of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support import server
from tests.support.releases import release

Folder = Callable[[str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write an application's source, and return its folder."""

    def write(source: str) -> Path:
        (tmp_path / "app.py").write_text(dedent(source))
        return tmp_path

    return write


@pytest.fixture
def plain(folder: Folder) -> Path:
    """The folder of an application that responds with values of its environ."""
    return folder(
        """
        import json, os, time

        def app(environ, start_response):
            if environ["PATH_INFO"].startswith("/sleep/"):
                open("asleep", "w").close()
                time.sleep(float(environ["PATH_INFO"][7:]))
            content = json.dumps({
                "pid": os.getpid(),
                "listener": environ.get("socketact.listener"),
                "draining": environ["socketact.draining"]() if "socketact.draining" in environ else None,
                "environ": {k: v for k, v in os.environ.items() if k.startswith(("LISTEN_", "NOTIFY_"))},
            }).encode()
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        """
    )


@pytest.fixture
def http() -> Iterator[socket.socket]:
    """A listener on a free port."""
    with server.tcp() as listener:
        yield listener


@pytest.fixture
def site(folder: Folder) -> Path:
    """The folder of an application that gets new releases."""
    path = folder("")
    release(path, "one")
    return path


@pytest.fixture
def box(tmp_path: Path) -> Iterator[socket.socket]:
    """A mailbox."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mailbox"))
        listener.listen(64)
        yield listener
