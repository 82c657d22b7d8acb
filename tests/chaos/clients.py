"""Clients that send requests for the length of a ``with`` block, never retry, and write a ledger."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from tests.chaos.access import Access
from tests.chaos.evidence import Closed, Outcome, Request
from tests.chaos.wire import LostError, Wire

#: How often the clients look whether their own loop is late; shorter delays do not count. Seconds.
TICK = 0.02


@dataclass(frozen=True)
class Kind:
    """What clients of a kind do."""

    number: int
    milliseconds: int = 0  #: that the view takes
    think: tuple[float, float] = (0.05, 0.05)  #: shortest and longest pause between two requests, in seconds
    keeps: bool = True  #: the connection
    pieces: int = 0  #: of the content
    pause: float = 0.0  #: before each piece, in seconds

    def own(self, round_trip: float, loss: float, *, is_new: bool) -> float:
        """Return how long a request takes if nothing waits, in seconds.

        :param round_trip: of the link, in seconds
        :param loss: of its packets, between 0 and 1
        """
        round_trips = 1 + is_new + (GROWTH if self.pieces else 0)
        piece = max(self.pause, GROWTH * round_trip) if loss else self.pause  # TCP may begin again after each loss
        return self.milliseconds / 1000 + self.pieces * piece + round_trips * round_trip


KINDS = {
    "new": Kind(4, think=(0.05, 0.15), keeps=False),
    "keep-alive": Kind(4),
    "busy": Kind(2, milliseconds=5, think=(0.0, 0.0)),
    "idle": Kind(8, think=(2.0, 4.0)),
    "long": Kind(2, milliseconds=3000, think=(0.2, 0.4)),
    "upload": Kind(2, think=(0.2, 0.4), pieces=8, pause=0.15),
}
#: For workers that serve one request at a time.
SERIAL_KINDS = {"new": KINDS["new"], "long": Kind(1, milliseconds=1000, think=(0.5, 1.0))}
PIECE = b"x" * 20_000
#: Round trips until TCP's congestion window has grown to a piece, from one packet (RFC 5681).
GROWTH = 4


class Clients:
    """The clients, in a thread of their own; the attributes are complete after the block."""

    def __init__(self, access: Access, kinds: dict[str, Kind], seed: int) -> None:
        self.requests: list[Request] = []
        self.closed: list[Closed] = []
        self.late: list[tuple[float, float]] = []
        self._access, self._kinds, self._seed = access, kinds, seed
        self._is_stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="clients")

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until every request has ended."""
        self._is_stopping = True
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            self._access.enter()
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 (raised again in the other thread)
            self._error = error

    async def _run(self) -> None:
        ticking = asyncio.create_task(self._tick())
        tasks = [
            self._client(name, kind, number) for name, kind in self._kinds.items() for number in range(kind.number)
        ]
        await asyncio.gather(*tasks)
        ticking.cancel()

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            if (late := time.monotonic() - due) > TICK:
                self.late.append((due + late, late))

    async def _client(self, name: str, kind: Kind, number: int) -> None:
        choose = random.Random(f"{self._seed} {name} {number}")  # noqa: S311
        wire: Wire | None = None
        count = 0
        while not self._is_stopping:
            count += 1
            wire = await self._request(f"{name}-{number}-{count}", name, kind, wire)
            wire = await self._think(name, wire, choose.uniform(*kind.think))
        if wire is not None:
            wire.close()

    async def _think(self, name: str, wire: Wire | None, seconds: float) -> Wire | None:
        """Pause, and notice that the server closes the connection."""
        if wire is None:
            await asyncio.sleep(seconds)
            return None
        started = time.monotonic()
        with suppress(TimeoutError, asyncio.TimeoutError):  # Python 3.10 has two of them
            await asyncio.wait_for(wire.ended(), seconds)
        if wire.ended_at is None:
            return wire
        self.closed.append(Closed(name, wire.port, wire.opened, wire.ended_at))
        wire.close()
        await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
        return None

    async def _request(self, request: str, name: str, kind: Kind, wire: Wire | None) -> Wire | None:
        """Send a request, and note it; return the connection if it can be used again."""
        began = time.monotonic()
        reused = wire is not None
        outcome, detail, content, status = Outcome.OK, "", "", 0
        try:
            if wire is None:
                wire = await self._connect()
            target = f"/c/{request}?ms={kind.milliseconds}"
            response = await wire.exchange(target, [PIECE] * kind.pieces, kind.pause)
            content, status = response.content, response.status
            outcome, detail = _check(request, kind, status, content)
        except LostError as error:
            outcome, detail = error.outcome, str(error)
        except OSError as error:
            outcome, detail = (Outcome.REFUSED if wire is None else Outcome.RESET), str(error)
        words = content.split() if outcome is Outcome.OK else ["", "0", ""]
        self.requests.append(
            Request(
                request,
                name,
                wire.port if wire else 0,
                wire.opened if wire else began,
                reused,
                began,
                time.monotonic(),
                kind.own(self._access.round_trip, self._access.loss, is_new=not reused),
                outcome,
                wire.received if wire else 0,
                int(words[1]),
                words[2],
                detail,
            )
        )
        if wire is not None and (outcome is not Outcome.OK or not kind.keeps or not wire.is_usable):
            if outcome is Outcome.OK and kind.keeps and not wire.was_announced:
                self.closed.append(Closed(name, wire.port, wire.opened, wire.ended_at or time.monotonic()))
            wire.close()
            return None
        return wire

    async def _connect(self) -> Wire:
        opened = time.monotonic()
        loop, address = asyncio.get_running_loop(), self._access.address
        if isinstance(address, str):
            return (await loop.create_unix_connection(lambda: Wire(opened), address))[1]
        return (await loop.create_connection(lambda: Wire(opened), *address))[1]


def _check(request: str, kind: Kind, status: int, content: str) -> tuple[Outcome, str]:
    if status != 200:
        return Outcome.STATUS, f"{status} {content[:80]}"
    words = content.split()
    if len(words) != 4 or words[0] != request or words[3] != str(kind.pieces * len(PIECE)):
        return Outcome.WRONG, content[:80]
    return Outcome.OK, ""
