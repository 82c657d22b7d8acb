"""Run a rehearsal."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flask_socketact.cli.rehearse import service
from flask_socketact.cli.rehearse.clients import Client, Crowd, Group, Pace
from flask_socketact.cli.rehearse.recording import Recording, Restart
from flask_socketact.cli.rehearse.service import Service
from flask_socketact.errors import RehearsalError, RequestError

#: Time between two measurements of the loop's lateness, in seconds.
TICK = 0.05
#: Time between two checks for requests that exceed their timeout, in seconds.
LOOK = 1.0
#: Descriptors in addition to those of the clients.
_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True)
class Plan:
    """The clients, and the restarts."""

    groups: Sequence[Group]
    command: Sequence[str]  #: restarts the service
    service: Service | None = None  #: from which generations are read
    restarts: int = 5
    every: float = 5.0  #: seconds of load before, between and after restarts
    pace: Pace = field(default_factory=Pace)


#: Called regularly with the recording and a word or two for the current step.
Progress = Callable[[Recording, str], None]


def rehearse(plan: Plan, progress: Progress) -> Recording:
    """Run clients and restarts, and return the recording. SIGINT ends it early.

    :raises RehearsalError: the service does not respond before the first restart, there are too many clients, or the
        command does not exist, or fails without touching the service.
    """
    if plan.restarts and shutil.which(plan.command[0]) is None:
        raise RehearsalError(f"there is no command {plan.command[0]} to restart the service: correct --do")
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
        recording.first_generation = await self._ask(Service.generation)
        crowd = Crowd(plan.groups, plan.pace, recording, self._began)
        gc.collect()
        gc.freeze()  # the collector skips existing objects, so that clients wait less
        crowd.start()
        watch = self._loop.create_task(self._watch(crowd))
        restarts = self._loop.create_task(self._restart_repeatedly())
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
        """End early; the second time, without waiting for responses."""
        if self._recording.is_interrupted:
            crowd.abandon()
        self._recording.is_interrupted = True
        restarts.cancel()

    async def _restart_repeatedly(self) -> None:
        await asyncio.sleep(self._plan.every)
        for number in range(1, self._plan.restarts + 1):
            last_change = await self._ask(Service.last_change)
            self._doing = f"restart {number}"
            restart = Restart(self._now())
            self._recording.restarts.append(restart)
            try:
                restart.status, restart.error = await service.run(self._plan.command)
            finally:
                restart.ended = self._now()
            if restart.status and last_change and last_change == await self._ask(Service.last_change):
                raise RehearsalError(_without_effect(self._plan.command, restart))
            restart.generation = await self._ask(Service.generation)
            self._doing = "serving"
            await asyncio.sleep(self._plan.every)

    async def _watch(self, crowd: Crowd) -> None:
        """Fail requests that exceed their timeout, and measure the loop's lateness."""
        next_look = 0.0
        while True:
            due = self._loop.time() + TICK
            await asyncio.sleep(TICK)
            self._recording.lateness = max(self._recording.lateness, self._loop.time() - due)
            if due >= next_look:
                next_look = due + LOOK
                crowd.expire()
            self._show_progress()

    def _show_progress(self) -> None:
        try:
            self._progress(self._recording, self._doing)
        except OSError:  # the terminal or pipe is closed
            self._progress = lambda _recording, _doing: None

    async def _ask(self, question: Callable[[Service], str]) -> str:
        """Return what systemd says about the service; empty if there is none."""
        return await asyncio.to_thread(question, self._plan.service) if self._plan.service else ""

    def _now(self) -> float:
        return self._loop.time() - self._began


def _without_effect(command: Sequence[str], restart: Restart) -> str:
    """Describe a command that failed, and neither restarted nor reloaded the service."""
    said = restart.error.rstrip(".") or f"exit status {restart.status}"
    remedy = "type the command alone, and correct it" if os.geteuid() == 0 else "rehearse as root, with sudo"
    return f"{shlex.join(command)} restarted nothing: {said}: {remedy}"


async def _probe(group: Group, pace: Pace) -> None:
    """Check that a kind of client gets a response before the first restart.

    :raises RehearsalError: it does not.
    """
    client = Client(group.target, pace, lambda _: None)
    try:
        await asyncio.wait_for(group.kind.send(client), pace.timeout)
    except (RequestError, asyncio.TimeoutError) as error:
        why = str(error) or f"no response within {pace.timeout:g} s"
        remedy = (
            "choose a page that responds with 2xx or 3xx" if why.startswith("status") else "start the service first"
        )
        at = f" at {group.target.address}" if isinstance(group.target.address, str) else ""
        raise RehearsalError(
            f"{group.target.url}{at} ({group.kind.name}): {why}, before anything was restarted: {remedy}"
        ) from None
    finally:
        client.close()


def _raise_descriptor_limit(clients: int) -> None:
    """Allow a descriptor for each client.

    :raises RehearsalError: the hard limit is lower.
    """
    needed = clients + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise RehearsalError(f"{clients} clients need more file descriptors than the {hard} allowed: raise ulimit -Hn")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
