"""Plain requests: what nearly all clients send nearly always. They are read in one step.

A request is plain if its header section has come whole, in HTTP/1.1, and has nothing that gunicorn treats in a special
way. gunicorn's parser in C (``gunicorn_h1c``) parses it, with gunicorn's limits. All others take gunicorn's way, with
the same bytes; whatever is refused is refused there.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import Any

import gunicorn_h1c
from gunicorn.config import PreRequest
from gunicorn.http import body
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request, _check_fast_parser
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import IterUnreader

from flask_socketact.errors import SocketActError
from flask_socketact.http import rules
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.unreader import TrustingRequest

#: A path, and perhaps a query, of visible characters, without a fragment (RFC 9112, section 3.2.1).
_TARGET = re.compile(r"(/[\x21\x22\x24-\x3e\x40-\x7e]*)(?:\?([\x21\x22\x24-\x7e]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
#: Headers that change how gunicorn reads the request.
_SPECIAL = ("EXPECT", "TRANSFER-ENCODING")
#: Names are remembered as clients write them: some 30 are usual, but a client can send any, and long ones.
_MOST_NAMES = 1024
_LONGEST_NAME = 64
_EXAMPLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class NotPlainError(SocketActError):
    """gunicorn treats the request in a special way."""


@lru_cache(_MOST_NAMES)
def _key(name: bytes) -> str:
    """Return the key in the environ for the name of a header.

    :raises NotPlainError: the header is a special one.
    """
    upper = name.decode("latin-1").upper()
    if len(name) > _LONGEST_NAME or "_" in upper or upper in _SPECIAL:
        raise NotPlainError
    key = upper.replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"


class PlainRequest(TrustingRequest):
    """A plain request, with the attributes of gunicorn's."""

    version = (1, 1)
    fragment = ""
    _expected_100_continue = False

    def __init__(self, parser: RequestParser, found: dict[str, Any], example: Request) -> None:
        """Take the result of ``gunicorn_h1c.parse_request``. Settings are those of an `example` that gunicorn made.

        :raises NotPlainError: the request is not plain.
        """
        self._found = found["headers"]
        self.fields = fields = {_key(name): value.decode("latin-1") for name, value in self._found}
        self.method = found["method"].decode("latin-1")
        self.uri = found["path"].decode("latin-1")
        target = _TARGET.fullmatch(self.uri)
        host = fields.get("HTTP_HOST")
        length = fields.get("CONTENT_LENGTH")
        connection = fields.get("HTTP_CONNECTION")
        if (
            target is None
            or host is None
            or not rules.is_host(host)
            or not (length is None or _LENGTH.fullmatch(length))
            or len(fields) != len(self._found)  # a header is repeated
            or found["minor_version"] != 1
            or self.method == "CONNECT"
        ):
            raise NotPlainError
        self.path, query = target.groups("")
        self.query = query
        self.scheme = example.scheme
        self.must_close = connection is not None and connection.strip(" \t").lower() == "close"
        self.cfg, self.unreader, self.peer_addr = parser.cfg, parser.unreader, parser.source_addr
        size = int(length or 0)
        self.has_body = size > 0
        self.body = body.Body(body.LengthReader(self.unreader, size))
        self.req_number = parser.req_count + 1
        self.proxy_protocol_info: Any = None
        self._example = example

    def should_close(self) -> bool:
        return self.must_close

    # The rest is for hooks and logs.

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        return [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in self._found]

    @cached_property
    def trailers(self) -> list[tuple[str, str]]:
        return []

    @cached_property
    def remote_addr(self) -> Any:
        return self.peer_addr

    def __getattr__(self, name: str) -> Any:
        """Return one of gunicorn's attributes that are the same for all requests, such as limits."""
        if name == "_example":
            raise AttributeError(name)
        return getattr(self._example, name)


def has_no_body(request: Request) -> bool:
    """Return whether it is known at once that a request has no body, as most have none."""
    return type(request) is PlainRequest and not request.has_body


class PlainParser:
    """Parses plain requests, for all connections of a worker."""

    @classmethod
    def create(cls, cfg: Settings) -> PlainParser | None:
        """Return the parser for these settings; None if they leave only gunicorn's way."""
        if cfg.protocol != "http" or cfg.casefold_http_method or not _check_fast_parser(cfg):
            return None
        if cfg.pre_request is not PreRequest.default:  # it may change all that gunicorn's request has
            return None
        try:
            return cls(cfg)
        except ParseException:  # the limits refuse even the shortest request
            return None

    def __init__(self, cfg: Settings) -> None:
        self._example = example = Request(cfg, IterUnreader([_EXAMPLE]), None, req_number=2)
        self._arguments = (
            0,
            example._fast_limit_request_line,
            example.limit_request_fields,
            example.limit_request_field_size,
            cfg.permit_unconventional_http_method,
            cfg.permit_unconventional_http_version,
        )
        self._begins_with_proxy = cfg.proxy_protocol != "off"
        self._schemes: dict[str, str] = {}  # headers of a trusted proxy by their keys, and their values for https
        for name, value in cfg.secure_scheme_headers.items():
            if name == name.upper():  # gunicorn finds no others
                with suppress(NotPlainError):
                    self._schemes[_key(name.encode())] = value

    def parse(self, parser: RequestParser, data: bytes) -> PlainRequest | None:
        """Return the request at the beginning of `data`, and buffer what follows it; None: it is not plain."""
        # gunicorn measures the request line after an empty line itself.
        if data.startswith(b"\r") or (self._begins_with_proxy and not parser.req_count):
            return None
        try:
            found = gunicorn_h1c.parse_request(data, *self._arguments)
            request = PlainRequest(parser, found, self._example)
            if not self._schemes.keys().isdisjoint(request.fields):
                self._note_scheme(request)
        except (gunicorn_h1c.ParseError, gunicorn_h1c.IncompleteError, NotPlainError):
            return None
        parser.mesg = request
        parser.req_count = request.req_number
        if len(data) > found["consumed"]:
            parser.unreader.buf.write(data[found["consumed"] :])
        return request

    def _note_scheme(self, request: PlainRequest) -> None:
        """Let a trusted proxy say which scheme its client has used.

        :raises NotPlainError: it says that twice.
        """
        if not request._peer_is_trusted_proxy():
            return
        said = self._schemes.keys() & request.fields.keys()
        if len(said) > 1:
            raise NotPlainError
        for key in said:
            request.scheme = "https" if request.fields[key] == self._schemes[key] else "http"
