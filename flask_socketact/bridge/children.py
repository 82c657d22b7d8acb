"""The end of a process that the application has forked, and that returns into our code."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, NoReturn


def end_child(error: BaseException | None, log: Any) -> NoReturn:
    """Exit such a process, after the application has returned in it, or raised `error`. Only its parent goes on."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        log.error("Error in a process that the application has forked (pid: %s)", os.getpid(), exc_info=error)
    flush_output()
    os._exit(status)


def flush_output() -> None:
    """Write out what the process has printed; not done by ``os._exit()``."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or closed
            stream.flush()
