"""gunicorn's settings, for the request path."""

from __future__ import annotations

from typing import Any

from gunicorn.config import Config


class Settings:
    """Remembers each setting that it was asked for; gunicorn's own object works it out
    every time, and for one request it is asked twenty times, which costs a tenth of it."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cfg, name)
        setattr(self, name, value)
        return value
