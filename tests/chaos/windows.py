"""The times in which clients may notice something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.evidence import Cause, Window

#: The longest, in seconds; then the service does not come back, which is a leftover.
LONGEST = 60.0


class Windows:
    """Collects windows. Some end when the service is up again."""

    def __init__(self, is_up: Callable[[], bool]) -> None:
        self.windows: list[Window] = []
        self._is_up = is_up
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    @contextmanager
    def open(self, *causes: Cause) -> Iterator[None]:
        """Note the time of the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.windows += [Window(cause, began, time.monotonic()) for cause in causes]

    def open_until_active(self, cause: Cause) -> None:
        """Note the time from now on until the service is up again."""
        thread = threading.Thread(target=self._wait, args=(cause, time.monotonic()))
        thread.start()
        self._threads.append(thread)

    def _wait(self, cause: Cause, began: float) -> None:
        time.sleep(0.3)  # until systemd has seen that the process is dead
        try:
            while not self._is_up() and time.monotonic() < began + LONGEST:
                time.sleep(0.15)
        except BaseException as error:  # noqa: BLE001 (raised again by close())
            self._errors.append(error)
        self.windows.append(Window(cause, began, time.monotonic()))

    def close(self) -> None:
        """Wait until all have ended.

        :raises BaseException: the state of the service could not be read.
        """
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
