"""How a deployment ends, and where its steps are told."""

from __future__ import annotations

from typing import Protocol


class Tell(Protocol):
    """Takes the steps of a deployment, in sentences."""

    def __call__(self, step: str) -> None:
        """Take a step."""

    def failure(self, reason: str) -> None:
        """Take the reason why the release is not deployed: once, before the one before it is put back."""
