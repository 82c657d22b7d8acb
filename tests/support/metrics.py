"""Read the metrics of a service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.support.http import ask

if TYPE_CHECKING:
    from tests.support.http import Connect


def samples(connect: Connect) -> dict[str, float]:
    """Return the values of /metrics by name, with labels."""
    text = ask(connect, "/metrics")[1].decode()
    return {name: float(number) for name, number in re.findall(r"^([a-z][^ {]*(?:{.*})?) (\S+)$", text, re.MULTILINE)}


def counted(connect: Connect) -> int:
    """Return how many responses of the view hello with status 200 were counted."""
    return int(samples(connect).get('socketact_request_duration_seconds_count{endpoint="hello",status="200"}', 0))
