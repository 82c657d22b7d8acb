"""The environ of a plain request (PEP 3333), as gunicorn's ``wsgi.create`` makes it for any request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http import wsgi

from flask_socketact.http.plain import PlainRequest
from flask_socketact.http.settings_cache import Settings

if TYPE_CHECKING:
    from flask_socketact.http.connection import Connection
    from flask_socketact.http.response import Response

_PORTS = {"http": "80", "https": "443"}
#: Host and port; one part if there is no port.
_PARTS = 2


def base_environ(cfg: Settings) -> dict[str, Any] | None:
    """Return what the environs of all requests have in common; None if gunicorn must make them."""
    if os.environ.get("SCRIPT_NAME"):
        return None
    return {
        **wsgi.base_environ(cfg),
        "wsgi.multithread": True,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


def plain_environ(
    base: dict[str, Any], connection: Connection, request: PlainRequest, response: Response
) -> dict[str, Any]:
    """Return the environ of `request`."""
    environ = {**base, **request.fields}
    environ["REQUEST_METHOD"] = request.method
    environ["RAW_URI"] = request.uri
    environ["QUERY_STRING"] = request.query
    path = request.path
    environ["PATH_INFO"] = util.unquote_to_wsgi_str(path) if "%" in path else path
    environ["wsgi.input"] = request.body
    environ["wsgi.url_scheme"] = request.scheme
    environ["wsgi.early_hints"] = wsgi._make_early_hints_callback(request, connection, response)
    client = connection.client
    if isinstance(client, tuple):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    else:
        environ["REMOTE_ADDR"] = client if isinstance(client, str) else client.decode()
    server = connection.server
    if isinstance(server, str):
        server = _server_at(server, request)
    environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
    if request.proxy_protocol_info:
        environ.update(wsgi.proxy_environ(request))
    return environ


def _server_at(path: str, request: PlainRequest) -> list[str]:
    """Return name and port of the server that a client of a Unix socket has asked for."""
    server = path.split(":")
    if len(server) < _PARTS:
        server = request.fields["HTTP_HOST"].split(":")
        if len(server) < _PARTS:
            server.append(_PORTS[request.scheme])
    return server
