"""Limits on the file descriptors of this process: some are reserved for the application."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys

#: Descriptors that connections leave to the application: it opens files to serve accepted requests.
RESERVE = 8
#: If LimitNOFILE= is lower than this, a worker sends no more connections at once than fit into a receiver's reserve.
LOW_LIMIT = 1000
#: How long a worker that is short of descriptors accepts nothing, in seconds.
ACCEPT_PAUSE = 0.1
#: A worker that is short of descriptors closes connections that have been idle for longer, oldest limit. Seconds.
CLOSE_IDLE_AFTER = 2.0
#: How many of these it closes at a time.
CLOSE_IDLE_BATCH = 16
#: How often a shortage of descriptors is logged, in seconds.
LOG_INTERVAL = 10.0
TOO_MANY_OPEN_FILES = os.strerror(errno.EMFILE)
#: Errors of accept(2) for no free descriptor or memory. The connection stays in the queue.
NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
STDOUT, STDERR = 1, 2
#: The unpatched function: gevent's closes later, and a process forked in between would inherit the descriptor.
_close = os.close


def first_reserved() -> int:
    """Return the lowest descriptor that is reserved for the application. The kernel always assigns the lowest free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - RESERVE


def has_room(fd: int) -> bool:
    """Return whether a new connection leaves the application its reserve. `fd` is any open descriptor."""
    limit = first_reserved()
    try:
        if limit < LOW_LIMIT:
            return len(os.listdir("/proc/self/fd")) <= limit
        probe = os.dup(fd)
    except OSError:
        return False
    _close(probe)
    return probe < limit


def above_streams(fd: int) -> int:
    """Return `fd`, or replace it with a duplicate above 2, and return that.

    After an application has closed stdin, stdout or stderr, a connection must not get that number: ``print`` would
    write into it.
    """
    if fd > STDERR:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)
    finally:
        _close(fd)
