"""What an exception says that the application could not use: files, address families, SQLite databases."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from flask_socketact.systemd import sandbox

#: Most exceptions that are read in a chain of causes, and most open files of the process.
_MOST = 20
_MOST_FILES = 4096
#: SQLite's header: https://www.sqlite.org/fileformat.html
_SQLITE = b"SQLite format 3\0"
_CANNOT_OPEN = "unable to open database file"
_SQLITE_ERRORS = ("attempt to write a readonly database", _CANNOT_OPEN)
#: Bytes 18 and 19 of the header: the database has a write-ahead log, for which a reader creates files, too.
_WAL = b"\2\2"
#: Files that may be meant where only their name is known.
_SUFFIXES = (".db", ".db3", ".sqlite", ".sqlite3")
_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)


def refusals(error: BaseException) -> Iterator[sandbox.Refusal]:
    """Yield what the sandbox has refused, as `error` and its causes say.

    :raises Exception: that cannot be found out.
    """
    for number, link in enumerate(_chain(error)):
        if number == _MOST:
            return
        if isinstance(link, OSError):
            found = _of_os_error(link)
        elif _is_sqlite(link):
            found = _of_database(link)
        else:
            found = None
        if found is not None:
            yield found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_os_error(error: OSError) -> sandbox.Refusal | None:
    if error.errno == errno.EAFNOSUPPORT:
        family = _family(error)
        return sandbox.of_family(family) if family is not None else None
    if error.errno not in _ERRORS:
        return None
    paths = [os.fsdecode(path) for path in (error.filename2, error.filename) if isinstance(path, str | bytes)]
    found = (sandbox.of_path(path, error.errno) for path in paths)
    return next((refusal for refusal in found if refusal is not None), None)


def _family(error: OSError) -> int | None:
    """Return the address family of the socket that could not be made; None if it is unknown."""
    frame = innermost(error)
    if frame is None:
        return None
    family = frame.f_locals.get("family")
    if frame.f_code.co_name == "__init__" and frame.f_globals.get("__name__") in ("socket", "gevent._socket3"):
        return int(family) if isinstance(family, int) else None
    # C code, which lists the network interfaces with it.
    is_psutil = str(frame.f_globals.get("__name__")).startswith("psutil")
    return int(socket.AF_NETLINK) if is_psutil or "if_nameindex" in frame.f_code.co_names else None


def _is_sqlite(error: BaseException) -> bool:
    kind = type(error)
    return kind.__name__ == "OperationalError" and "sqlite3" in kind.__module__ and str(error) in _SQLITE_ERRORS


def _of_database(error: BaseException) -> sandbox.Refusal | None:
    """Return why a database cannot be written, if there is no doubt which one it is."""
    if str(error) == _CANNOT_OPEN:
        candidates = (set(_named_databases(error)), {path for path, header in _open_databases() if header[18:] == _WAL})
    else:
        candidates = ({path for path, _ in _open_databases()}, set(_named_databases(error)))
    for paths in candidates:
        found = {sandbox.of_path(path, errno.EROFS) for path in paths}
        if len({refusal and refusal.remedy for refusal in found}) == 1 and (refusal := found.pop()) is not None:
            return refusal
    return None


def _open_databases() -> Iterator[tuple[str, bytes]]:
    """Yield the SQLite databases that this process has open, and the beginnings of their headers.

    Through the descriptors it has: closing another one would release SQLite's locks (fcntl(2)).
    """
    for number in os.listdir("/proc/self/fd")[:_MOST_FILES]:
        try:
            descriptor = int(number)
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if not is_file or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                continue
            header = os.pread(descriptor, 20, 0)
            if header.startswith(_SQLITE):
                yield os.readlink(f"/proc/self/fd/{number}"), header
        except OSError:  # another thread has closed it
            continue


def _named_databases(error: BaseException) -> list[str]:
    """Return names of databases where the error was raised: SQLite does not say which one it could not open."""
    frame = innermost(error)
    if frame is None:
        return []
    code = frame.f_code
    values: list[Any] = [*frame.f_locals.values()]
    values += [frame.f_globals[name] for name in code.co_names if name in frame.f_globals]
    values += [part for value in values if type(value) in (list, tuple) for part in value[:_MOST]]
    flask = sys.modules.get("flask")
    if flask is not None and flask.has_app_context():
        values += [flask.current_app.config.get(key) for key in code.co_consts if isinstance(key, str)]
    # A constant may be a part of a path.
    return _paths(values) or _paths(code.co_consts)


def _paths(values: Iterable[Any]) -> list[str]:
    """Return those of `values` that name a database."""
    paths = [os.fspath(value) if isinstance(value, os.PathLike) else value for value in values]
    return [path for path in paths if isinstance(path, str) and path.endswith(_SUFFIXES)]


def innermost(error: BaseException) -> FrameType | None:
    """Return the frame that raised `error`."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame if traceback is not None else None
