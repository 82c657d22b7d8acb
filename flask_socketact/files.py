"""Files that whoever reads them finds whole, the old content or the new: rename(2)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, text: str, *, mode: int = 0o644, durable: bool = False) -> None:
    """Put `text` into the file `path`, whole or (the disk is full) not at all.

    A link in its place is replaced, not followed. `durable`: it outlives a power cut from when this returns.

    :raises OSError: it cannot be written; what was there is still there.
    """
    with beside(path, text, mode=mode, durable=durable) as whole:
        whole.replace(path)
    if durable:
        _sync_folder(path.parent)


@contextmanager
def beside(path: Path, text: str, *, mode: int = 0o644, durable: bool = False) -> Iterator[Path]:
    """Write `text` to another file of the same folder, and return that: it is for `Path.replace`, and is removed at
    the end if it is still there.

    :raises OSError: it cannot be written.
    """
    # A name that nobody knows: in a folder of somebody else's a link may wait at any other.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    whole = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, mode)
            if durable:
                file.flush()
                os.fsync(descriptor)
        yield whole
    finally:
        whole.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
