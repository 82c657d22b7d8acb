"""What the service's user has written or prints, read by root: never more than there may be, and never waited for."""

from __future__ import annotations

import errno
import os
import selectors
import stat
import subprocess
import time
from typing import Any

#: Longer than any honest environment file, and any honest answer. Bytes.
LIMIT = 1024 * 1024


def read_file(path: str) -> str:
    """Return the text of a regular file.

    :raises OSError: it cannot be read, is no regular file (a FIFO would be waited for), or is too long.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise OSError(errno.EFBIG, f"it is longer than {LIMIT} bytes", path)
    return data.decode(errors="replace")


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
