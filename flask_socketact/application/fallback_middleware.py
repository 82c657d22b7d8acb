"""Request IDs and metrics under other servers, where no worker of ours handles them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask_socketact.bridge import keys, request_context, server_info


class Middleware:
    """WSGI middleware. In a worker of ours it does nothing."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if server_info.server is not None:
            return self._application(environ, start_response)
        began = time.perf_counter()
        status = "500"
        request_context.enter(environ)

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = line
            if name := environ.get(keys.ID_HEADER):
                headers.append((name, request_context.id_of(environ)))
            return start_response(line, headers, exc_info)

        try:
            body = self._application(environ, start)
        except BaseException:
            _end(environ, status, began)
            raise
        try:
            # What Flask returns has a close(), which the server calls after it has sent the response (PEP 3333).
            body.close = partial(_close, body, body.close, environ, status, began)  # type: ignore[attr-defined]
        except AttributeError:  # a list or tuple: it has no close()
            _end(environ, status, began)
        return body


def _close(body: Any, close: Callable[[], None], environ: dict[str, Any], status: str, began: float) -> None:
    del body.close  # or they would form a reference cycle
    try:
        close()
    finally:
        _end(environ, status, began)


def _end(environ: dict[str, Any], status: str, began: float) -> None:
    if observe := environ.get(keys.OBSERVE):
        observe(environ, status, time.perf_counter() - began)
    request_context.leave()
