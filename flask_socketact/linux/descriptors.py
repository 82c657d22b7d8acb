"""The numbers of this process's descriptors: which are to stay free, and which are not for connections."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys

#: So many descriptors are left to the application: it opens files to answer what has been accepted.
RESERVE = 8
#: With a lower limit of descriptors, no more connections are sent at once than the reserve of a receiver takes.
LOW_LIMIT = 1000
#: How long nothing is accepted for want of descriptors, in seconds.
ACCEPT_PAUSE = 0.1
#: With fewer left, connections that have been idle for longer than this are closed, the oldest first. Seconds.
CLOSE_IDLE_AFTER = 2.0
#: ... so many at a time.
CLOSE_IDLE_BATCH = 16
#: How often a want of descriptors is logged, in seconds.
LOG_INTERVAL = 10.0
TOO_MANY_OPEN_FILES = os.strerror(errno.EMFILE)
#: accept(2): there is no descriptor left, or no memory; the connection stays in the queue, until there is room for it.
NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
STDOUT, STDERR = 1, 2
#: The real one: gevent's closes a descriptor later, and a process that is forked meanwhile keeps it.
_close = os.close


def first_reserved() -> int:
    """Return the number from which on descriptors are the application's: the kernel gives the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - RESERVE


def has_room(fd: int) -> bool:
    """Return whether a new connection would leave the application its reserve; `fd` is any open descriptor."""
    first = first_reserved()
    try:
        if first < LOW_LIMIT:
            return len(os.listdir("/proc/self/fd")) <= first
        probe = os.dup(fd)
    except OSError:
        return False
    _close(probe)
    return probe < first


def above_streams(fd: int) -> int:
    """Return `fd`, or a duplicate in its place with a number above those of stdin, stdout and stderr: an application
    may close these, and print on."""
    if fd > STDERR:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)
    finally:
        _close(fd)
