"""Which addresses exclude each other, and which process listens where."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_socketact.cli import ports
from flask_socketact.systemd import holders
from flask_socketact.systemd.unit import Unit
from tests.support import server
from tests.support.child import child
from tests.support.control_groups import SERVICE, SLICE, ControlGroups


class Manager:
    """A user's manager with some socket units."""

    user = True

    def __init__(self, **listening: str) -> None:
        self._listening = {address: f"{unit}.socket" for unit, address in listening.items()}

    def listening(self) -> Iterator[tuple[str, str]]:
        yield from self._listening.items()


def manager(**listening: str) -> Any:
    return Manager(**listening)


@pytest.mark.parametrize(
    ("address", "other", "collides"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("80", "127.0.0.1:80", True),  # all addresses, IPv6 and IPv4
        ("[::]:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("0.0.0.0:80", "[::]:80", True),
        ("[::1]:80", "127.0.0.1:80", False),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", True),
        ("/run/app/http", "/run/app/http", True),
        ("/run/app/http", "/run/other/http", False),
        ("@app", "@app", True),
        ("/run/80", "80", False),
    ],
)
def test_addresses_that_exclude_each_other(address: str, other: str, collides: bool) -> None:
    assert ports.collide(address, other) is collides
    assert ports.collide(other, address) is collides


def test_an_address_is_missing_if_nothing_listens_there(tmp_path: Path) -> None:
    with server.unix(tmp_path / "http"), server.tcp() as tcp, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        open_port, closed_port = (end.getsockname()[1] for end in (tcp, reserved))
        lines = [f"{tmp_path}/http (Stream)", f"127.0.0.1:{open_port} (Stream)", f"127.0.0.1:{closed_port} (Stream)"]
        unit = Unit("app.socket", {"Listen": lines, "ActiveState": ("active",)})
        assert ports.missing(unit, manager()) == [f"127.0.0.1:{closed_port}"]
        inactive = Unit("other.socket", {"Listen": lines, "ActiveState": ("inactive",)})
        lost = ports.lost([unit, inactive], Unit("app.service", {}), manager())
        assert (lost.addresses, lost.kept) == ((f"127.0.0.1:{closed_port}",), ())


def test_old_workers_keep_an_address_that_systemd_has_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ControlGroups(tmp_path, monkeypatch)
    service = Unit("app.service", {"ControlGroup": (SERVICE,)})
    with child(server.tcp) as pid:
        (address,) = (holder.what for holder in holders.listeners([pid]))
        assert ports.kept_by_workers([address], service) == []
        groups.fill(f"{SLICE}/app-drain-1-2.scope", [pid])
        assert ports.kept_by_workers([address, "127.0.0.1:1"], service) == [address]


def test_the_unit_that_listens_is_named_before_a_process() -> None:
    with server.tcp() as tcp:
        address = f"127.0.0.1:{tcp.getsockname()[1]}"
        assert ports.occupant(address, manager(other=address), ("app.socket",)) == "other.socket"
        assert "process " in ports.occupant(address, manager(app=address), ("app.socket",))
        assert "process " in ports.occupant(address, manager(), ())


def test_an_address_where_nothing_listens_has_no_occupant() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        assert ports.occupant(f"127.0.0.1:{reserved.getsockname()[1]}", manager(), ()) == ""
