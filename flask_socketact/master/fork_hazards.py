"""What an application has begun while it was loaded, and what a fork breaks: threads, connections, open files."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator

from flask_socketact.linux import proc
from flask_socketact.text import printable

#: Kinds of sockets that are no stream: processes may share them (that of syslog, or of the journal).
_STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
#: The class without Python's additions, and without gevent's: it changes nothing.
_Socket = socket.SocketType


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process refers to, as proc_pid_fd(5) names it."""
    found = {}
    for name in os.listdir(proc.PROC / "self/fd"):
        try:
            found[int(name)] = os.readlink(proc.PROC / "self/fd" / name)
        except OSError:  # that of the listing itself
            continue
    return found


def find(before: dict[int, str]) -> list[str]:
    """Return what is dangerous to inherit, and what to do: a line for each kind.

    :param before: :func:`open_files` before the application was loaded
    """
    new = [(fd, name) for fd, name in open_files().items() if before.get(fd) != name]
    return [
        f"{what}: {', '.join(names)}. {remedy}"
        for what, names, remedy in (
            (
                "the application has started threads while it was loaded, which do not run in the workers",
                sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread()),
                "Start them in the hook post_worker_init, or when they are first needed",
            ),
            (
                "the application has opened connections while it was loaded, which the workers would share",
                sorted(filter(None, (_connection(fd) for fd, _ in new))),
                "Close them in the hook pre_fork, and let each worker open its own",
            ),
            (
                "the application has opened files while it was loaded, whose positions the workers would share",
                sorted(set(_written(new))),
                "Close them in the hook pre_fork, and let each worker open its own",
            ),
        )
        if names
    ]


def _connection(fd: int) -> str:
    """Return the address of a stream socket's peer, or where it listens; empty for anything else, as one of two ends in
    this process, which have no names."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)  # otherwise the application's socket would become non-blocking
    try:
        connection = _Socket(fileno=fd)
    except OSError:  # it is no socket
        return ""
    finally:
        socket.setdefaulttimeout(timeout)
    try:
        if connection.type & ~socket.SOCK_NONBLOCK & ~socket.SOCK_CLOEXEC not in _STREAMS:
            return ""
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"a listener at {_name(connection.getsockname())}"
        return _name(connection.getpeername())
    except OSError:  # not connected
        return ""
    finally:
        connection.detach()


def _name(address: object) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return printable(os.fsdecode(address)) if isinstance(address, str | bytes) else ""


def _written(files: list[tuple[int, str]]) -> Iterator[str]:
    """Yield the names of regular files that are open for reading and writing, as a database is; not those to which
    one only appends, as to a log, and not memory that processes share."""
    shared = _mapped()
    for fd, name in files:
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            is_file = stat.S_ISREG(os.fstat(fd).st_mode) and not name.endswith(" (deleted)")
        except OSError:  # it was closed meanwhile, by another thread
            continue
        if is_file and flags & os.O_ACCMODE == os.O_RDWR and not flags & os.O_APPEND and name not in shared:
            yield printable(name)


def _mapped() -> set[str]:
    """Return the names of the files that are mapped into the memory of this process: proc_pid_maps(5)."""
    lines = (proc.PROC / "self/maps").read_text(errors="replace").splitlines()
    return {f"/{path}" for _, found, path in (line.partition(" /") for line in lines) if found}
