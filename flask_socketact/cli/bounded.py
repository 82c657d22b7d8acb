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
    with _start(command, how) as process:
        try:
            printed = _read(process, time.monotonic() + seconds)
            is_whole = max(map(len, printed)) <= LIMIT
            if is_whole:
                process.wait(seconds)
        finally:
            process.kill()  # nothing, of one that has ended
    if not is_whole:
        raise OSError(errno.EFBIG, f"it prints more than {LIMIT} bytes")
    out, err = (bytes(text).decode(errors="replace") for text in printed)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def head(command: list[str], *, seconds: float, **how: Any) -> str:
    """Run a program, and return what it prints to stdout, or the first :data:`LIMIT` bytes; it is killed then.

    :raises OSError: it cannot be run.
    :raises TimeoutExpired: it takes longer than `seconds`.
    """
    with _start(command, how) as process:
        try:
            out, _ = _read(process, time.monotonic() + seconds)
        finally:
            process.kill()
    return bytes(out[:LIMIT]).decode(errors="replace")


def _start(command: list[str], how: dict[str, Any]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **how)  # noqa: S603


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytearray, bytearray]:
    """Return what a process prints to stdout and stderr, until it has closed both, or one is longer than there may be.

    :raises TimeoutExpired: it has not until `deadline` (CLOCK_MONOTONIC, seconds).
    """
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, text in ((process.stdout, out), (process.stderr, err)):
            selector.register(stream, selectors.EVENT_READ, text)  # type: ignore[arg-type]  # they are pipes
        while selector.get_map() and len(out) <= LIMIT and len(err) <= LIMIT:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(key.fd, 65536)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
    return out, err
