"""Forked processes: one that waits while the test looks at it, and one that is the test itself."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def child(prepare: Callable[[], object]) -> Iterator[int]:
    """Fork a process in which `prepare` has been called, and whose result lives; return its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = prepare()  # noqa: F841 (a socket, or an open file)
            os.write(write, b".")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    try:
        assert os.read(read, 1) == b".", "the process has failed"
        yield pid
    finally:
        os.close(read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def in_child(function: Callable[[], object]) -> int:
    """Run `function` in a forked process; return its exit status, 0 if it has not raised."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 (an assertion, too)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
