"""A deploy of a Flask application with ``systemctl restart`` that no client can notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_socketact.application.extension import SocketAct as SocketAct

__all__ = ["SocketAct"]


def __getattr__(name: str) -> Any:
    """Import the Flask side when it is asked for: gunicorn's master must not import Flask,
    or a reload would go on with the old one."""
    if name == "SocketAct":
        from flask_socketact.application.extension import SocketAct

        return SocketAct
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
