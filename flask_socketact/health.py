"""Liveness and readiness over HTTP, for load balancers and monitoring."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, jsonify


def blueprint(*, healthz: str | None, readyz: str | None, draining: Callable[[], bool]) -> Blueprint:
    """Return the endpoints at the paths given; None leaves an endpoint out.

    :raises ValueError: a path is no plain path, or both are the same.
    """
    _check("SOCKETACT_HEALTHZ", healthz)
    _check("SOCKETACT_READYZ", readyz)
    if healthz is not None and healthz == readyz:
        raise ValueError(f"SOCKETACT_HEALTHZ and SOCKETACT_READYZ are both {healthz!r}: give each its own path")

    endpoints = Blueprint("socketact", __name__)
    if healthz is not None:
        endpoints.add_url_rule(healthz, "healthz", lambda: _answer(200, status="pass"))
    if readyz is not None:
        endpoints.add_url_rule(
            readyz,
            "readyz",
            lambda: _answer(503, status="fail", output="draining") if draining() else _answer(200, status="pass"),
        )
    return endpoints


def _check(key: str, path: object) -> None:
    if path is not None and not (isinstance(path, str) and path.startswith("/") and "<" not in path):
        raise ValueError(f"{key} is {path!r}: give a path that begins with '/', without <>, or None to switch it off")


def _answer(code: int, **content: str) -> Response:
    """Answer in the words of the health+json draft (draft-inadarei-api-health-check)."""
    response = jsonify(content)
    response.status_code = code
    response.headers["Cache-Control"] = "no-store"
    return response
