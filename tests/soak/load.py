"""The client as a process of its own, in the machine's network; its accounts go to the results."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from tests.soak.client import STOP
from tests.soak.latency import LONGEST
from tests.soak.plan import Settings
from tests.soak.results import REQUESTS, Results
from tests.support.machine import Machine

_ADDRESS = ("127.0.0.1", "8000")
_ROOT = Path(__file__).parents[2]


class LoadError(Exception):
    """The client has ended by itself."""


class Load:
    """A steady load, for the length of a ``with`` block."""

    def __init__(self, machine: Machine, settings: Settings, results: Results, session: int) -> None:
        self._machine = machine
        self._settings = settings
        self._results = results
        self._session = session

    def __enter__(self) -> Load:
        settings = self._settings
        options = [f"--rate={settings.rate}", f"--connections={settings.connections}"]
        if settings.worker == "sync":  # it has no keep-alive
            options.append("--no-keep-alive")
        enter = ("nsenter", f"--target={self._machine.leader}", "--net")
        self._client = subprocess.Popen(
            [*enter, sys.executable, "-m", "tests.soak.client", *_ADDRESS, *options],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until every request has ended."""
        try:
            self._tell(STOP)
            self._client.wait(2 * LONGEST)
        except LoadError:
            pass  # the account is incomplete, as the verdict will say
        finally:
            self._client.kill()
            self._client.wait()
            self._reader.join()
            assert self._client.stdin is not None
            assert self._client.stdout is not None
            self._client.stdin.close()
            self._client.stdout.close()

    def begin(self, phase: str) -> None:
        """Account for the requests from now on to this phase.

        :raises LoadError: the client has ended.
        """
        self._tell(phase)

    def _tell(self, line: str) -> None:
        assert self._client.stdin is not None
        try:
            self._client.stdin.write(f"{line}\n")
            self._client.stdin.flush()
        except OSError:
            raise LoadError(f"the client has ended, exit status {self._client.poll()}: see its message above") from None

    def _read(self) -> None:
        assert self._client.stdout is not None
        for line in self._client.stdout:
            self._results.add(REQUESTS, session=self._session, **json.loads(line))
