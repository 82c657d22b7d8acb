"""Listeners from systemd, valid and invalid."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.server import CONF, Server, dial, tcp, unix


def get(listener: socket.socket) -> dict[str, object]:
    status, content = ask(lambda: dial(listener))
    assert status == 200
    answer: dict[str, object] = json.loads(content)
    return answer


def test_every_request_knows_its_listener(plain: Path) -> None:
    with tcp() as v4, tcp(socket.AF_INET6) as v6, unix(plain / "http.sock") as local, unix(plain / "2") as second:
        listeners = {"public": v4, "public6": v6, "admin": local, "unknown": second}
        with Server(plain, *CONF, "app:app", listeners=listeners) as server:
            server.wait_until_ready()
            for name, listener in listeners.items():
                assert get(listener)["listener"] == name


def test_two_listeners_may_share_a_name(plain: Path) -> None:
    with (
        tcp() as first,
        tcp() as second,
        Server(
            plain, *CONF, "app:app", listeners={"a": first, "b": second}, environ={"LISTEN_FDNAMES": "http:http"}
        ) as server,
    ):
        server.wait_until_ready()
        assert get(first)["listener"] == get(second)["listener"] == "http"


def test_abstract_unix_socket(plain: Path) -> None:
    name = f"flask-socketact-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        with Server(plain, *CONF, "--bind", f"unix:@{name}", "app:app", listeners={"abstract": listener}) as server:
            assert f"at unix:@{name} (abstract)" in server.wait_for_message("READY=1")
            assert "is ignored" not in server.log
            assert get(listener)["listener"] == "abstract"


def test_children_inherit_no_variables(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert get(http)["environ"] == {}


def test_unix_socket_stays_when_gunicorn_exits(plain: Path) -> None:
    with unix(plain / "http.sock") as listener, Server(plain, *CONF, "app:app", listeners={"h": listener}) as server:
        server.wait_until_ready()
        server.process.terminate()
        assert server.wait_until_gone() == 0
        assert (plain / "http.sock").is_socket()


@pytest.mark.parametrize(
    ("bind", "reported"),
    [
        ("127.0.0.1:{port}", False),
        ("localhost:{port}", False),
        ("127.0.0.1:1", True),
        ("127.0.0.1:8000", True),  # gunicorn's default, but given explicitly
        ("host.invalid:{port}", True),
        ("unix:/tmp/x", True),
    ],
)
def test_contradicting_bind_is_reported(plain: Path, http: socket.socket, bind: str, reported: bool) -> None:
    bind = bind.format(port=http.getsockname()[1])
    with Server(plain, *CONF, "--bind", bind, "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert (f"bind = {bind} is ignored" in server.log) is reported
        assert get(http)["listener"] == "http"


def test_reuse_port_does_not_reach_the_listener(plain: Path, http: socket.socket) -> None:
    """SO_REUSEPORT would stay set on the listener, and let other processes bind the same port."""
    with Server(plain, *CONF, "--reuse-port", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        assert server.log.count("reuse_port is ignored") == 1
        assert http.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_reload_with_another_bind_keeps_the_listener(plain: Path, http: socket.socket) -> None:
    config = plain / "settings.py"
    config.write_text("from flask_socketact.conf import *\n")
    with Server(plain, "-c", "settings.py", "app:app", listeners={"http": http}) as server:
        server.wait_until_ready()
        old = set(server.workers())
        config.write_text("from flask_socketact.conf import *\nbind = '127.0.0.1:1'\nreuse_port = True\n")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: old.isdisjoint(server.workers()), "new workers")
        assert get(http)["listener"] == "http"
        assert "bind = 127.0.0.1:1 is ignored" in server.log
        assert "reuse_port is ignored" in server.log


def test_bind_by_descriptor_is_refused(plain: Path, http: socket.socket) -> None:
    with Server(plain, *CONF, "--bind", "fd://3", "app:app", listeners={"http": http}) as server:
        assert_refused(server, "bind = ['fd://3']", "LISTEN_FDS=1", "remove fd://")


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"LISTEN_FDS": "one"}, "LISTEN_FDS='one' is not a positive number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS='-1' is not a positive number"),
        ({"LISTEN_FDS": "0"}, "LISTEN_FDS='0' is not a positive number"),
        ({"LISTEN_FDS": ""}, "LISTEN_FDS='' is not a positive number"),
        ({"LISTEN_FDS": "²"}, "LISTEN_FDS='²' is not a positive number"),
        ({"LISTEN_FDS": "9" * 30}, "LISTEN_FDS=" + "9" * 30),
        ({"LISTEN_PID": "me"}, "LISTEN_PID='me' is not a positive number"),
        ({"LISTEN_PID": "9" * 30}, "LISTEN_PID=" + "9" * 30),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS=2 but descriptor 4 is closed"),
        ({"LISTEN_FDNAMES": "a:b"}, "LISTEN_FDNAMES='a:b' names 2 descriptors but LISTEN_FDS=1"),
        ({"LISTEN_FDS": "one", "LISTEN_PID": "1"}, "LISTEN_FDS='one' is not a positive number"),
    ],
)
def test_malformed_environment(plain: Path, http: socket.socket, environ: dict[str, str], found: str) -> None:
    with Server(plain, *CONF, "app:app", listeners={"http": http}, environ=environ) as server:
        assert_refused(server, found)


def test_sockets_of_the_wrong_kind(plain: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        datagram.bind(("127.0.0.1", 0))
        with Server(plain, *CONF, "app:app", listeners={"dns": datagram}) as server:
            assert_refused(server, "descriptor 3 (FileDescriptorName=dns) is a datagram socket (ListenDatagram=)")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets:
        packets.bind(str(plain / "packets"))
        packets.listen()
        with Server(plain, *CONF, "app:app", listeners={"box": packets}) as server:
            assert_refused(server, "FileDescriptorName=box", "ListenSequentialPacket=")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
        with Server(plain, *CONF, "app:app", listeners={"link": netlink}) as server:
            assert_refused(server, "FileDescriptorName=link", "ListenNetlink=")


def test_second_of_two_descriptors_is_wrong(plain: Path, http: socket.socket) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        with Server(plain, *CONF, "app:app", listeners={"http": http, "dns": datagram}) as server:
            assert_refused(server, "descriptor 4 (FileDescriptorName=dns)")


def test_descriptors_that_are_not_sockets(plain: Path) -> None:
    os.mkfifo(plain / "fifo")
    with open(os.open(plain / "fifo", os.O_RDWR), "rb", buffering=0) as fifo:
        with Server(plain, *CONF, "app:app", listeners={"pipe": fifo}) as server:
            assert_refused(server, "descriptor 3 (FileDescriptorName=pipe) is a FIFO (ListenFIFO=)")
    with (plain / "app.py").open("rb") as file, Server(plain, *CONF, "app:app", listeners={"f": file}) as server:
        assert_refused(server, "FileDescriptorName=f", "is not a socket")


def test_connection_instead_of_a_listener(plain: Path, http: socket.socket) -> None:
    with dial(http), http.accept()[0] as connection:
        with Server(plain, *CONF, "app:app", listeners={"connection": connection}) as server:
            assert_refused(server, "FileDescriptorName=connection", "is a connection, not a listener", "Accept=no")


def assert_refused(server: Server, *found: str) -> None:
    """Assert one line that says what was found, an exit status other than 0, and no READY=1."""
    assert server.wait_until_gone() == 1
    assert len(server.log.split("\n")) == 4, server.log  # gunicorn puts an empty line before and after
    for text in ("Error: ", *found):
        assert text in server.log
    assert not any("READY" in message for message in server.messages)


def test_without_activation_it_binds_and_says_so_once(plain: Path) -> None:
    with Server(plain, *CONF, "--bind", "unix:http.sock", "app:app") as server:
        server.wait_until_ready()
        warning = "No listeners from systemd (LISTEN_FDS is not set)"
        assert server.log.count(warning) == 1
        old = set(server.workers())
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: old.isdisjoint(server.workers()), "new workers")
        assert server.log.count(warning) == 1


def test_variables_for_another_process(plain: Path, http: socket.socket) -> None:
    arguments = (*CONF, "--bind", "unix:http.sock", "app:app")
    with Server(plain, *arguments, listeners={"http": http}, environ={"LISTEN_PID": "1"}) as server:
        server.wait_until_ready()
        assert "LISTEN_PID=1 names another process" in server.log
