"""The PROXY protocol, versions 1 and 2 (haproxy.org/download/3.2/doc/proxy-protocol.txt), beyond what gunicorn parses.

gunicorn parses addresses of TCP over IPv4 and IPv6. A receiver must also accept connections whose address the proxy
does not tell: they keep the address of the proxy itself.
"""

from __future__ import annotations

import re
from typing import Any

from gunicorn.http.errors import InvalidProxyLine
from gunicorn.http.message import PPFamily, PPProtocol, Request

#: The longest header of version 1, with its CRLF. Bytes.
MAX_LINE = 107
#: What gunicorn returns for a connection whose address is not told.
_UNTOLD = {"client_addr": None, "client_port": None, "proxy_addr": None, "proxy_port": None}
_TCP = re.compile(rb"PROXY TCP[46] [0-9A-Fa-f:.]+ [0-9A-Fa-f:.]+ [0-9]{1,5} [0-9]{1,5}")
#: Length of the fixed part of version 2, and where it has family and protocol, and the length of the rest. Bytes.
_FIXED, _FAMILY, _LENGTH = 16, 13, 14
_COMMAND = 12
_PROXY = 0x21


def tells_address(info: dict[str, Any] | None) -> bool:
    """Return whether `info`, as gunicorn's parser returns it, has the address of a client."""
    return info is not None and info.get("client_addr") is not None


class ProxyRequest(Request):
    """gunicorn's request, with the whole PROXY protocol."""

    def _parse_proxy_protocol_v1(self, unreader: Any, buf: bytearray) -> bytearray:
        while (end := buf.find(b"\r\n")) < 0 and len(buf) < MAX_LINE:
            self.read_into(unreader, buf)
        line = bytes(buf[: max(end, 0)])
        if end < 0 or end + 2 > MAX_LINE:
            raise InvalidProxyLine("longer than 107 bytes")
        if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
            self.proxy_protocol_info = {"proxy_protocol": "UNKNOWN", **_UNTOLD}
            return buf[end + 2 :]
        if not _TCP.fullmatch(line):
            raise InvalidProxyLine(line.decode("latin-1"))
        rest: bytearray = super()._parse_proxy_protocol_v1(unreader, buf)
        return rest

    def _parse_proxy_protocol_v2(self, unreader: Any, buf: bytearray) -> bytearray:
        while len(buf) < _FIXED:
            self.read_into(unreader, buf)
        family, protocol = buf[_FAMILY] >> 4, buf[_FAMILY] & 0x0F
        is_known = family in (PPFamily.INET, PPFamily.INET6) and protocol == PPProtocol.STREAM
        if buf[_COMMAND] != _PROXY or is_known or family > PPFamily.UNIX or protocol > PPProtocol.DGRAM:
            rest: bytearray = super()._parse_proxy_protocol_v2(unreader, buf)
            return rest
        size = _FIXED + int.from_bytes(buf[_LENGTH:_FIXED], "big")
        while len(buf) < size:
            self.read_into(unreader, buf)
        self.proxy_protocol_info = {"proxy_protocol": PPFamily(family).name, **_UNTOLD}
        return buf[size:]
