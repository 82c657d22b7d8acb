"""A rehearsal from its beginning to its end."""

from __future__ import annotations

import asyncio
import gc
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flask_socketact.cli.rehearse import service
from flask_socketact.cli.rehearse.clients import Client, Crowd, Group, Pace
from flask_socketact.cli.rehearse.recording import Recording, Restart
from flask_socketact.cli.rehearse.service import Service
from flask_socketact.errors import RehearsalError, RequestError

#: How often the loop looks at how late it is, in seconds.
TICK = 0.05
#: How often it looks at what has not been answered in time, in seconds.
LOOK = 1.0
#: Descriptors beside those of the clients.
_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    groups: Sequence[Group]
    command: Sequence[str]  #: restarts the service
    service: Service | None = None  #: which tells its generations apart
    restarts: int = 5
    every: float = 5.0  #: seconds of load before, between and after restarts
    pace: Pace = field(default_factory=Pace)


#: Told what happens, in a word or two, and again and again how it goes.
Progress = Callable[[Recording, str], None]


def rehearse(plan: Plan, progress: Progress) -> Recording:
    """Ask, and restart, and ask on; return what became of it. SIGINT ends it early.

    :raises RehearsalError: the service does not answer before anything is restarted, clients are too many, or there
        is no such command.
    """
    if plan.restarts and shutil.which(plan.command[0]) is None:
        raise RehearsalError(f"there is no command {plan.command[0]} to restart the service with")
    _raise_descriptor_limit(sum(group.number for group in plan.groups))
    recording = Recording([group.kind.name for group in plan.groups])
    return asyncio.run(_Rehearsal(plan, recording, progress).run())


class _Rehearsal:
    def __init__(self, plan: Plan, recording: Recording, progress: Progress) -> None:
        self._plan = plan
        self._recording = recording
        self._progress = progress
        self._doing = "serving"

    async def run(self) -> Recording:
        plan, recording = self._plan, self._recording
        await asyncio.gather(*(_probe(group, plan.pace) for group in plan.groups))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        recording.first_generation = await self._generation()
        crowd = Crowd(plan.groups, plan.pace, recording, self._began)
        gc.collect()
        gc.freeze()  # what is there already is not looked through again and again while clients wait
        crowd.start()
        watch = self._loop.create_task(self._watch(crowd))
        restarts = self._loop.create_task(self._restart_again_and_again())
        self._loop.add_signal_handler(signal.SIGINT, self._interrupt, restarts, crowd)
        try:
            await restarts
        except asyncio.CancelledError:
            pass  # by Ctrl-C
        finally:
            self._doing = "ending"
            await crowd.stop()
            watch.cancel()
            gc.unfreeze()
        recording.seconds = self._now()
        return recording

    def _interrupt(self, restarts: asyncio.Task[None], crowd: Crowd) -> None:
        """End early; if asked again, without waiting for answers."""
        if self._recording.is_interrupted:
            crowd.abandon()
        self._recording.is_interrupted = True
        restarts.cancel()

    async def _restart_again_and_again(self) -> None:
        await asyncio.sleep(self._plan.every)
        for number in range(1, self._plan.restarts + 1):
            self._doing = f"restart {number}"
            restart = Restart(self._now())
            self._recording.restarts.append(restart)
            try:
                restart.status, restart.error = await service.run(self._plan.command)
            finally:
                restart.ended = self._now()
            restart.generation = await self._generation()
            self._doing = "serving"
            await asyncio.sleep(self._plan.every)

    async def _watch(self, crowd: Crowd) -> None:
        """See that answers come in time, and how late the loop itself is."""
        next_look = 0.0
        while True:
            due = self._loop.time() + TICK
            await asyncio.sleep(TICK)
            self._recording.lateness = max(self._recording.lateness, self._loop.time() - due)
            if due >= next_look:
                next_look = due + LOOK
                crowd.expire()
            self._tell()

    def _tell(self) -> None:
        try:
            self._progress(self._recording, self._doing)
        except OSError:  # nobody reads it any more
            self._progress = lambda _recording, _doing: None

    async def _generation(self) -> str:
        if self._plan.service is None:
            return ""
        return await asyncio.to_thread(self._plan.service.generation)

    def _now(self) -> float:
        return self._loop.time() - self._began


async def _probe(group: Group, pace: Pace) -> None:
    """See that a kind of client is answered while nothing is restarted.

    :raises RehearsalError: it is not.
    """
    client = Client(group.target, pace, lambda _: None)
    try:
        await asyncio.wait_for(group.kind.ask(client), pace.timeout)
    except (RequestError, asyncio.TimeoutError) as error:
        why = str(error) or f"no answer within {pace.timeout:g} s"
        remedy = "give a page that is answered with 2xx or 3xx" if why.startswith("status") else "start it first"
        raise RehearsalError(
            f"{group.target.url} ({group.kind.name}): {why}, before anything was restarted: {remedy}"
        ) from None
    finally:
        client.close()


def _raise_descriptor_limit(clients: int) -> None:
    """Let there be a descriptor for every client.

    :raises RehearsalError: that is more than we may have.
    """
    needed = clients + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise RehearsalError(f"{clients} clients take more file descriptors than the {hard} allowed: raise ulimit -Hn")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
