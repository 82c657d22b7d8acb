"""What a program of the service's user prints, read by root: never more than there may be, nor for longer."""

from __future__ import annotations

import errno
import os
import selectors
import subprocess
import time
from typing import Any

#: Longer than any honest answer. Bytes.
LIMIT = 1024 * 1024


def run(command: list[str], *, seconds: float, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as ``subprocess.run`` does; one that prints too much, or takes too long, is killed.

    :raises OSError: it cannot be run, or prints too much.
    :raises TimeoutExpired: it takes longer than `seconds`.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as (  # noqa: S603
        process
    ):
        try:
            printed = _read(process, time.monotonic() + seconds)
            process.wait(seconds)
        except BaseException:
            process.kill()
            raise
    out, err = (bytes(text).decode(errors="replace") for text in printed)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytearray, bytearray]:
    """Return what a process prints to stdout and stderr, until it has closed both."""
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, text in ((process.stdout, out), (process.stderr, err)):
            selector.register(stream, selectors.EVENT_READ, text)  # type: ignore[arg-type]  # they are pipes
        while selector.get_map():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(key.fd, 65536)
                key.data.extend(data)
                if len(key.data) > LIMIT:
                    raise OSError(errno.EFBIG, f"it prints more than {LIMIT} bytes")
                if not data:
                    selector.unregister(key.fileobj)
    return out, err
