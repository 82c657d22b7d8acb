"""Sockets of systemd as gunicorn's listeners, and settings that contradict them."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from flask_socketact.errors import ActivationError, SettingsError
from flask_socketact.master import listeners
from tests.support import server

LOG: Any = logging.getLogger(__name__)
#: gunicorn leaves a copy of each descriptor to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn's, without arguments."""
    monkeypatch.setattr(sys, "argv", ["gunicorn"])
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)


@pytest.fixture
def taken() -> Iterator[ExitStack]:
    """What closes the listeners that a test has taken."""
    with ExitStack() as stack:
        yield stack


def seqpacket(path: Path) -> socket.socket:
    """Return a mailbox."""
    box = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    box.bind(str(path))
    box.listen()
    return box


def take(taken: ExitStack, cfg: Config, **sockets: socket.socket) -> tuple[list[Any], Any]:
    """Take copies of `sockets`, as systemd passes them, by their names."""
    names = {end.dup().detach(): name for name, end in sockets.items()}
    found, box = listeners.take(names, cfg, LOG)
    for listener in found:
        taken.callback(listener.close)
    if box is not None:
        taken.callback(box.listener.close)
    return found, box


def config(**settings: object) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def test_listeners_have_the_names_and_the_order_of_the_units(taken: ExitStack, tmp_path: Path) -> None:
    with server.tcp() as tcp, server.unix(tmp_path / "http") as unix:
        found, box = take(taken, Config(), web=tcp, local=unix)
        assert [(each.fdname, each.getsockname()) for each in found] == [
            ("web", tcp.getsockname()),
            ("local", unix.getsockname()),
        ]
        assert box is None


def test_a_mailbox_is_told_from_listeners(taken: ExitStack, tmp_path: Path) -> None:
    with seqpacket(tmp_path / "mailbox") as mail, server.tcp() as tcp:
        found, box = take(taken, Config(), mail=mail, web=tcp)
        assert [each.fdname for each in found] == ["web"]
        assert box.listener.getsockname() == mail.getsockname()


def test_two_mailboxes_are_refused(tmp_path: Path) -> None:
    with seqpacket(tmp_path / "one") as one, seqpacket(tmp_path / "two") as two, server.tcp() as tcp:
        names = {one.fileno(): "one", tcp.fileno(): "web", two.fileno(): "two"}
        with pytest.raises(ActivationError, match=f"{one.fileno()} and {two.fileno()} .*ListenSequentialPacket="):
            listeners.take(names, Config(), LOG)


def test_a_mailbox_alone_is_refused(tmp_path: Path) -> None:
    with seqpacket(tmp_path / "one") as one:
        with pytest.raises(ActivationError, match=r"FileDescriptorName=mail.*ListenStream="):
            listeners.take({one.fileno(): "mail"}, Config(), LOG)


def test_a_descriptor_that_the_settings_name_by_its_number_is_refused() -> None:
    with server.tcp() as tcp:
        with pytest.raises(SettingsError, match=r"fd://9.*LISTEN_FDS=1"):
            listeners.take({tcp.fileno(): "web"}, config(bind=["fd://9"]), LOG)


def test_reuse_port_is_ignored(taken: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """It would stay on the socket of systemd."""
    with server.tcp() as tcp:
        cfg = config(reuse_port=True)
        take(taken, cfg, web=tcp)
        assert not cfg.reuse_port
        assert not tcp.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert "reuse_port is ignored" in caplog.text


@pytest.mark.parametrize("spelling", ["127.0.0.1:{}", "localhost:{}"])
def test_the_same_address_in_bind_is_no_contradiction(
    taken: ExitStack, caplog: pytest.LogCaptureFixture, spelling: str
) -> None:
    with server.tcp() as tcp:
        port = tcp.getsockname()[1]
        found, _ = take(taken, Config(), web=tcp)
        cfg = config(bind=[spelling.format(port)])
        listeners.keep(found, cfg, LOG)
        assert not caplog.records
        assert cfg.settings["bind"].get() == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:1", "unix:/nowhere", "no-such-host.invalid:80", "[::1]:1", "unix:{path}-2"]
)
def test_another_address_in_bind_is_ignored_with_a_warning(
    taken: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture, bind: str
) -> None:
    path = tmp_path / "http"
    with server.tcp() as tcp, server.unix(path) as unix:
        found, _ = take(taken, Config(), web=tcp, local=unix)
        cfg = config(bind=[bind.format(path=path)])
        listeners.keep(found, cfg, LOG)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert bind.format(path=path) in caplog.text
        assert f"unix:{path} (local)" in caplog.text
        assert cfg.settings["bind"].get() == [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]


def test_gunicorn_s_default_address_is_no_contradiction(taken: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    with server.tcp() as tcp:
        listeners.keep(take(taken, Config(), web=tcp)[0], Config(), LOG)
        assert not caplog.records


@pytest.mark.parametrize("by", ["argv", "environment"])
def test_the_default_address_is_one_if_it_is_asked_for(
    taken: ExitStack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    default = Config().settings["bind"].default[0]
    if by == "argv":
        monkeypatch.setattr(sys, "argv", ["gunicorn", "--bind", default])
    else:
        monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--bind {default}")
    with server.tcp() as tcp:
        listeners.keep(take(taken, Config(), web=tcp)[0], Config(), LOG)
        assert f"bind = {default} is ignored" in caplog.text


def test_listeners_are_described_with_their_names(taken: ExitStack, tmp_path: Path) -> None:
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{tmp_path}")
    abstract.listen()
    with server.tcp() as tcp, server.unix(tmp_path / "http") as unix, abstract:
        found, _ = take(taken, Config(), web=tcp, local=unix, hidden=abstract)
        assert listeners.describe(found) == (
            f"http://127.0.0.1:{tcp.getsockname()[1]} (web), unix:{tmp_path}/http (local), unix:@{tmp_path} (hidden)"
        )


def test_an_ipv6_address_has_brackets(taken: ExitStack) -> None:
    with server.tcp(socket.AF_INET6) as tcp:
        found, _ = take(taken, Config(), web=tcp)
        cfg = Config()
        listeners.keep(found, cfg, LOG)
        assert cfg.settings["bind"].get() == [f"[::1]:{tcp.getsockname()[1]}"]
