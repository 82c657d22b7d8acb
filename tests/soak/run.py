"""A run: boots the machine, puts the load on the service, restarts it, and writes down what happens."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from tests.soak import plan, results
from tests.soak.about import describe
from tests.soak.levels import SERVICE, Sampler
from tests.soak.load import Load
from tests.soak.plan import Phase
from tests.soak.results import Results
from tests.support.machine import Machine, drop_in, install

#: At most so many seconds of load count for failures, but not for response times.
_WARM_UP = 5.0
_LOOK = 0.2  #: seconds between two looks
_OVERDUE = 124  #: as timeout(1) has it
_WORKERS = {
    "thread": "",
    "sync": "-k flask_socketact.workers.sync.SyncWorker",
    "gevent": "-k flask_socketact.workers.gevent.GeventWorker",
}


class Run:
    """One session of a run; a run that was interrupted and resumed has several."""

    def __init__(self, kept: Results, tell: Callable[[Results, str], None]) -> None:
        """`tell` is called when a phase has ended, with the results and what has ended."""
        self._kept = kept
        self._settings = kept.settings
        self._tell = tell
        self._session = len(kept.of(results.SESSION))
        self._restarts = len(kept.of(results.RESTART))

    def run(self) -> None:
        """Do what is left of the plan."""
        left = plan.remaining(self._settings, len(self._kept.of(results.PHASE)), self._restarts)
        if not left:
            return
        with Machine(self._settings.tree) as self._machine:
            self._install()
            self._began = time.monotonic()
            self._kept.add(
                results.SESSION,
                date=datetime.now().astimezone().isoformat(timespec="seconds"),
                about=describe(self._machine),
                load=os.getloadavg(),
            )
            self._sampler = Sampler(self._machine)
            with Load(self._machine, self._settings, self._kept, self._session) as self._load:
                self._load.begin(plan.WARM_UP)
                time.sleep(min(_WARM_UP, self._settings.every))
                for phase in left:
                    self._phase(phase)

    def _install(self) -> None:
        install(self._machine, SERVICE)
        arguments = f"{_WORKERS[self._settings.worker]} {'--preload' if self._settings.preload else ''}".strip()
        drop_in(self._machine, "app.service", f'[Service]\nEnvironment="GUNICORN_CMD_ARGS={arguments}"\n')
        self._machine.systemctl("start", SERVICE)

    def _phase(self, phase: Phase) -> None:
        self._load.begin(phase.name)
        if phase.name == plan.WITH:
            self._restart_all(phase.restarts)
        else:
            self._wait(phase.seconds)
        self._kept.add(results.PHASE, index=phase.index, name=phase.name, session=self._session)
        self._tell(self._kept, f"{phase.name} restarts" if phase.name == plan.WITHOUT else f"restart {self._restarts}")

    def _wait(self, seconds: float) -> None:
        """Wait, and sample as often as next to restarts, so that both kinds of phases have the same disturbance."""
        due, end = time.monotonic(), time.monotonic() + seconds
        while due < end:
            self._sample(plan.WITHOUT)
            due += self._settings.every
            time.sleep(max(min(due, end) - time.monotonic(), 0.0))

    def _restart_all(self, restarts: int) -> None:
        """Restart every so many seconds; later, if a restart takes longer than half of that."""
        due = time.monotonic()
        for _ in range(restarts):
            self._sample(plan.WITH)
            self._restart()
            now = time.monotonic()
            due = max(due + self._settings.every, now + self._settings.every / 2)
            time.sleep(due - now)
            self._settle()

    def _settle(self) -> None:
        """Give old workers as long again to leave: on a busy machine they may need it."""
        deadline = time.monotonic() + self._settings.every
        while not self._sampler.has_settled() and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def _restart(self) -> None:
        verb = plan.verb(self._restarts + 1)
        began = time.monotonic()
        try:
            done = self._machine.systemctl(verb, SERVICE, check=False)
            status, error = done.returncode, done.stderr.strip()
        except subprocess.TimeoutExpired as overdue:
            status, error = _OVERDUE, f"not done within {overdue.timeout:.0f} s"
        self._restarts += 1
        self._sampler.restarted()
        self._kept.add(
            results.RESTART,
            session=self._session,
            number=self._restarts,
            verb=verb,
            at=round(began - self._began, 3),
            seconds=round(time.monotonic() - began, 3),
            status=status,
            error=error,
        )

    def _sample(self, phase: str) -> None:
        sample = self._sampler.sample()
        at = round(time.monotonic() - self._began, 3)
        self._kept.add(
            results.SAMPLE, session=self._session, phase=phase, restarts=self._restarts, at=at, **asdict(sample)
        )
