"""The PROXY protocol, versions 1 and 2, with every kind of header that its specification knows."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.process.test_misbehaviour import ALL, CLASSES
from tests.support.http import answer
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Folder

APP = """
    import json

    def app(environ, start_response):
        keys = ("REMOTE_ADDR", "REMOTE_PORT", "PROXY_PROTOCOL", "PROXY_ADDR", "PROXY_PORT")
        content = json.dumps({key: environ[key] for key in keys if key in environ}).encode()
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
IPV4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack(">HH", 4000, 80)
IPV6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
IPV6 += struct.pack(">HH", 4000, 80)
UNIX = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")
NOOP = b"\x04\0\x02xx"  #: a TLV without meaning
CRC = b"\x03\0\x04\0\0\0\0"  #: a TLV that gunicorn does not check
SSL = b"\x20\0\x05\x01\0\0\0\0"


def v2(command: int, family: int, data: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(data)) + data


#: Headers, and what they tell: the client's address.
TOLD = {
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n": "192.0.2.1",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n": "2001:db8::1",
    v2(PROXY, 0x11, IPV4): "192.0.2.1",
    v2(PROXY, 0x21, IPV6): "2001:db8::1",
    v2(PROXY, 0x11, IPV4 + NOOP + CRC + SSL): "192.0.2.1",
    v2(PROXY, 0x21, IPV6 + NOOP * 5000): "2001:db8::1",
}
#: Headers that tell nothing: the address is the proxy's.
LOCALS = [v2(LOCAL, 0x00, b""), v2(LOCAL, 0x11, IPV4), v2(LOCAL, 0x00, NOOP)]
#: The same. gunicorn's parser refuses them; the thread worker's does not.
UNTOLD = [
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    v2(PROXY, 0x00, b""),
    v2(PROXY, 0x00, NOOP),
    v2(PROXY, 0x12, IPV4),
    v2(PROXY, 0x22, IPV6),
    v2(PROXY, 0x31, UNIX),
    v2(PROXY, 0x32, UNIX),
]
INVALID = [
    b"PROXY \r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 4000 80\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 65536\r\n",
    b"PROXY TCP4 192.0.2.1 2001:db8::2 4000 80\r\n",
    b"PROXY TCP4 192.0.2.999 192.0.2.2 4000 80\r\n",
    v2(0x22, 0x11, IPV4),
    v2(0x11, 0x11, IPV4),
    v2(PROXY, 0x11, IPV4[:-1]),
    v2(PROXY, 0x21, IPV4),
    v2(PROXY, 0x41, IPV4),
    v2(PROXY, 0x13, IPV4),
]
#: gunicorn's parser accepts these; the thread worker's does not.
LAX = [b"PROXY TCP4 192.0.2.1 192.0.2.2 +4000 80\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 4_0 80\r\n"]


def ask(http: socket.socket, data: bytes) -> bytes:
    with dial(http) as client:
        client.sendall(data)
        return answer(client)


def content(response: bytes) -> dict[str, str]:
    assert response.startswith(b"HTTP/1.1 200"), response
    found: dict[str, str] = json.loads(response.partition(b"\r\n\r\n")[2])
    return found


def serve(folder: Path, http: socket.socket, worker: str, mode: str = "auto") -> Server:
    arguments = ("--proxy-protocol", mode, "--proxy-allow-from", "127.0.0.1", "-w", "1", "app:app")
    return Server(folder, *CONF, *CLASSES[worker], *arguments, listeners={"http": http})


@ALL
def test_headers(folder: Folder, http: socket.socket, worker: str) -> None:
    with serve(folder(APP), http, worker) as server:
        server.wait_until_ready()
        for header, address in TOLD.items():
            seen = content(ask(http, header + GET))
            assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["PROXY_PORT"]) == (address, "4000", "80")
        for header in [*LOCALS, *(UNTOLD if worker == "thread" else [])]:
            seen = content(ask(http, header + GET))
            assert seen["REMOTE_ADDR"] == "127.0.0.1", header
            assert int(seen["REMOTE_PORT"]) > 0
            assert "PROXY_PROTOCOL" not in seen
        refused = [*INVALID, *(LAX if worker == "thread" else UNTOLD)]
        for header in refused:
            assert ask(http, header + GET).startswith(b"HTTP/1.1 400"), header
        assert "Traceback" not in server.log, server.log


def test_headers_in_pieces(folder: Folder, http: socket.socket) -> None:
    with serve(folder(APP), http, "thread") as server:
        server.wait_until_ready()
        for header in (*list(TOLD)[:4], *LOCALS, *UNTOLD[:5]):
            with dial(http) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(len(header)):
                    client.sendall(header[at : at + 1])
                client.sendall(GET)
                content(answer(client))


def test_address_holds_for_all_requests_of_a_connection(folder: Folder, http: socket.socket) -> None:
    """A second header is not accepted: it would be the client's."""
    with serve(folder(APP), http, "thread") as server:
        server.wait_until_ready()
        keep = GET.replace(b"Connection: close\r\n", b"")
        for header, address in {b"PROXY UNKNOWN\r\n": "127.0.0.1", next(iter(TOLD)): "192.0.2.1"}.items():
            received = ask(http, header + keep + GET)
            assert received.count(f'"REMOTE_ADDR": "{address}"'.encode()) == 2, received
            assert b"400" in ask(http, header + b"PROXY TCP4 192.0.2.9 192.0.2.2 4000 80\r\n" + GET)[:15]


def test_endless_line(folder: Folder, http: socket.socket) -> None:
    with serve(folder(APP), http, "thread") as server:
        server.wait_until_ready()
        assert ask(http, b"PROXY TCP4 " + b"1" * 97).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(("mode", "header"), [("v1", v2(LOCAL, 0, b"")), ("v2", b"PROXY UNKNOWN\r\n")])
def test_other_version(folder: Folder, http: socket.socket, mode: str, header: bytes) -> None:
    with serve(folder(APP), http, "thread", mode) as server:
        server.wait_until_ready()
        assert ask(http, header + GET).startswith(b"HTTP/1.1 400")
