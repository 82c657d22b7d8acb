"""docs/static-files.md: the files of two releases, while one machine after the other gets the new one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import server
from tests.support.http import Connect, ask
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs/static-files.md"
PUBLISH, HASHED = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
IN_THE_RELEASE = HASHED.replace(
    'os.environ.get("ASSETS", "/srv/app/assets")', 'Path(__file__).with_name("hashed").resolve()'
)
assert IN_THE_RELEASE != HASHED
VIEW = """
from flask import url_for
from flask_socketact import SocketAct
SocketAct(app)
@app.get("/")
def page():
    return url_for("static", filename="css/style.css")
"""


class Machine:
    """A service, with releases in its folder."""

    def __init__(self, folder: Path, stack: ExitStack, application: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._application = application + VIEW
        self.assets = folder / "assets"
        self.put("one")
        self._switch("one")
        listener = stack.enter_context(server.tcp())
        self.connect: Connect = partial(dial, listener)
        (folder / "run").mkdir()
        self._server = stack.enter_context(
            Server(
                folder / "run",
                *CONF,
                "-w",
                "1",
                "--chdir",
                str(folder / "current"),
                "app:app",
                listeners={"http": listener},
                environ={"ASSETS": str(self.assets)},
            )
        )
        self._server.wait_until_ready()

    def put(self, release: str) -> None:
        """Copy a release here, and publish its files."""
        path = self._folder / release
        (path / "static/css").mkdir(parents=True)
        (path / "static/css/style.css").write_text(f"/* {release} */")
        (path / "app.py").write_text(self._application)
        (path / "publish.py").write_text(PUBLISH)
        for target in (self.assets, path / "hashed"):
            subprocess.run([sys.executable, "publish.py", target], cwd=path, check=True)

    def deploy(self, release: str) -> None:
        self._switch(release)
        done = self._server.log.count("Reloaded")
        self._server.signal(signal.SIGHUP)
        self._server.wait_for(lambda: self._server.log.count("Reloaded") > done, "the reload")

    def _switch(self, release: str) -> None:
        link = self._folder / "new"
        link.symlink_to(release)
        link.replace(self._folder / "current")


def load(page: Machine, other: Machine) -> tuple[str, int, bytes]:
    """Request a page, and its file from the other machine; return the file's path, status and content."""
    path = ask(page.connect)[1].decode()
    return path, *ask(other.connect, path)


def test_files_in_the_release(tmp_path: Path) -> None:
    """The page of the new release asks the old one: 404."""
    with ExitStack() as stack:
        one, two = (Machine(tmp_path / name, stack, IN_THE_RELEASE) for name in ("one", "two"))
        assert load(one, two)[1:] == (200, b"/* one */")
        one.put("two")
        one.deploy("two")
        assert load(one, two)[1] == 404


def test_files_in_a_folder_for_all_releases(tmp_path: Path, figure: Callable[[str], None]) -> None:
    done = threading.Event()
    seen: list[tuple[str, int, bytes]] = []
    with ExitStack() as stack:
        one, two = machines = [Machine(tmp_path / name, stack, HASHED) for name in ("one", "two")]
        old_path = load(one, two)[0]

        def visit(page: Machine, other: Machine) -> None:
            while not done.wait(0.01):
                seen.append(load(page, other))

        clients = [threading.Thread(target=visit, args=pair) for pair in ((one, two), (two, one))]
        for client in clients:
            client.start()
        for machine in machines:
            machine.put("two")
        for machine in machines:
            machine.deploy("two")
        path, status, content = load(one, two)
        done.set()
        for client in clients:
            client.join()
        assert re.fullmatch(r"/static/[0-9a-f]{16}/css/style\.css", path)
        assert (status, content) == (200, b"/* two */")
        assert ask(one.connect, old_path) == (200, b"/* one */")
    assert {status for _, status, _ in seen} == {200}
    assert {path for path, _, _ in seen} == {old_path, path}
    figure(f"{len(seen)} pages and their files, none 404")
