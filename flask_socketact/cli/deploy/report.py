"""How a deploy reports its progress."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Receives the steps of a deploy, as sentences."""

    def __call__(self, step: str) -> None:
        """Report a step."""

    def failure(self, reason: str) -> None:
        """Report why the release is not deployed. Called once, before the rollback."""
