"""The outcomes of all requests, stored compactly enough for millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Outcome(NamedTuple):
    """The outcome of one request. Times are in seconds since the beginning of the rehearsal."""

    kind: int  #: index of its kind of client
    began: float
    took: float  #: from the beginning, including a new connection, to the end of the response
    own: float  #: deliberate pauses of the client in that time
    failure: int  #: index in :attr:`Recording.reasons`; 0 if it succeeded

    @property
    def answering(self) -> float:
        """Time that the service took."""
        return self.took - self.own


@dataclass
class Restart:
    """One run of the command that restarts the service. Times are as in :class:`Outcome`."""

    began: float
    ended: float = 0.0
    status: int | None = None  #: exit status; None while it runs
    error: str = ""  #: first line on stderr
    generation: str = ""  #: main process after the restart


@dataclass
class Recording:
    """All data of a rehearsal."""

    kinds: list[str]
    first_generation: str = ""
    reasons: list[str] = field(default_factory=lambda: [""])
    restarts: list[Restart] = field(default_factory=list)
    seconds: float = 0.0  #: duration
    is_interrupted: bool = False
    lateness: float = 0.0  #: greatest lateness of the clients' loop, in seconds: it may cause waits up to this

    def __post_init__(self) -> None:
        self.kind, self.failure = array("B"), array("H")
        self.began, self.took, self.own = array("d"), array("d"), array("d")
        self.closed_kind, self.closed_at = array("B"), array("d")
        self._reason_numbers = {"": 0}
        self.failed = 0  #: requests

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[Outcome]:
        rows = zip(self.kind, self.began, self.took, self.own, self.failure, strict=True)
        return (Outcome(*row) for row in rows)

    def add(self, kind: int, began: float, took: float, own: float, failure: str = "") -> None:
        """Add the outcome of a request; `failure` is the reason, empty if it succeeded."""
        self.kind.append(kind)
        self.began.append(began)
        self.took.append(took)
        self.own.append(own)
        self.failure.append(self._number(failure))
        self.failed += bool(failure)

    def add_closed(self, kind: int, at: float) -> None:
        """Add a connection that the server closed and the client would have used again."""
        self.closed_kind.append(kind)
        self.closed_at.append(at)

    def _number(self, failure: str) -> int:
        number = self._reason_numbers.get(failure)
        if number is None:
            number = self._reason_numbers[failure] = len(self.reasons)
            self.reasons.append(failure)
        return number
