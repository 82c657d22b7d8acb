"""Run a program with a limit on its output and its time: root reads what the service user's programs print."""

from __future__ import annotations

import errno
import os
import selectors
import subprocess
import time
from typing import Any

#: Most bytes that a program may print: more than any that works prints.
LIMIT = 1024 * 1024


def run(command: list[str], *, seconds: float, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as ``subprocess.run`` does; kill it if it prints too much or takes too long.

    :raises OSError: the program cannot be run, or prints more than :data:`LIMIT` bytes.
    :raises TimeoutExpired: it takes longer than `seconds`.
    """
    with _start(command, how) as process:
        try:
            printed = _read(process, time.monotonic() + seconds)
            is_whole = max(map(len, printed)) <= LIMIT
            if is_whole:
                process.wait(seconds)
        finally:
            process.kill()  # has no effect after it has exited
    if not is_whole:
        raise OSError(errno.EFBIG, f"it prints more than {LIMIT} bytes")
    out, err = (bytes(text).decode(errors="replace") for text in printed)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def head(command: list[str], *, seconds: float, **how: Any) -> str:
    """Run a program and return its stdout; kill it after the first :data:`LIMIT` bytes.

    :raises OSError: the program cannot be run.
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
    """Return stdout and stderr of a process, read until both are closed or one exceeds the limit.

    :raises TimeoutExpired: `deadline` (CLOCK_MONOTONIC, seconds) has passed.
    """
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, text in ((process.stdout, out), (process.stderr, err)):
            selector.register(stream, selectors.EVENT_READ, text)  # type: ignore[arg-type]  # both are pipes
        while selector.get_map() and len(out) <= LIMIT and len(err) <= LIMIT:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(key.fd, 65536)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
    return out, err
