"""How a deployment ends, and where its steps are told."""

from __future__ import annotations

from typing import Protocol

from flask_socketact.errors import SocketActError


class Tell(Protocol):
    """Takes the steps of a deployment, in sentences."""

    def __call__(self, step: str) -> None:
        """Take a step."""

    def failure(self, reason: str) -> None:
        """Take the reason why the release is not deployed: once, before the one before it is put back."""


class NotDeployedError(SocketActError):
    """The release was bad, and the one before it serves; the text says why."""


class NotBegunError(SocketActError):
    """Nothing has been changed; the text says why."""


class LeftBrokenError(SocketActError):
    """The release was bad, and there is none to put back, or that does not serve: an administrator must look."""
