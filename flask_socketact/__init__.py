"""gunicorn under systemd for Flask: no client notices a ``systemctl restart``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_socketact.application.extension import SocketAct as SocketAct

__all__ = ["SocketAct"]


def __getattr__(name: str) -> Any:
    """Import the extension only when it is used: if gunicorn's master imported Flask, a reload could not replace it."""
    if name == "SocketAct":
        from flask_socketact.application.extension import SocketAct

        return SocketAct
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
