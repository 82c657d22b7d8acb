"""What became of every request, in memory that is small enough for millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Outcome(NamedTuple):
    """What became of one request. Times are seconds, and count from the beginning of the rehearsal."""

    kind: int  #: index of its kind of client
    began: float
    took: float  #: from before the connection, if it needed one, to the end of the answer
    own: float  #: of these, what the client took on purpose
    failure: int  #: index in :attr:`Recording.reasons`; 0: none

    @property
    def answering(self) -> float:
        """What the service took of these."""
        return self.took - self.own


@dataclass
class Restart:
    """One run of the command that restarts the service. Times as in an outcome."""

    began: float
    ended: float = 0.0
    status: int | None = None  #: exit status; None while it runs
    error: str = ""  #: the last line that it said on stderr
    generation: str = ""  #: who serves afterwards, as the service manager has it


@dataclass
class Recording:
    """All of a rehearsal."""

    kinds: list[str]
    first_generation: str = ""
    reasons: list[str] = field(default_factory=lambda: [""])
    restarts: list[Restart] = field(default_factory=list)
    seconds: float = 0.0  #: how long it lasted
    is_interrupted: bool = False
    lateness: float = 0.0  #: how late the clients' own loop was at most, in seconds: waits may be ours up to this

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
        """Note what became of a request; `failure` is the reason, empty if it was answered."""
        self.kind.append(kind)
        self.began.append(began)
        self.took.append(took)
        self.own.append(own)
        self.failure.append(self._number(failure))
        self.failed += bool(failure)

    def add_closed(self, kind: int, at: float) -> None:
        """Note that the server has closed a connection that a client would have gone on with."""
        self.closed_kind.append(kind)
        self.closed_at.append(at)

    def _number(self, failure: str) -> int:
        number = self._reason_numbers.get(failure)
        if number is None:
            number = self._reason_numbers[failure] = len(self.reasons)
            self.reasons.append(failure)
        return number
