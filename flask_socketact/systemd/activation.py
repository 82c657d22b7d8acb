"""Listeners from systemd: sd_listen_fds(3), checked before a worker accepts on them.

python-systemd speaks the protocol; this module turns its bare error numbers, and
descriptors that could never accept a connection, into one line for the administrator.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping

from systemd import daemon

from flask_socketact.errors import ActivationError

LISTEN_PID = "LISTEN_PID"
LISTEN_FDS = "LISTEN_FDS"
LISTEN_FDNAMES = "LISTEN_FDNAMES"

#: What gunicorn can accept connections on, as ``ListenStream=`` makes it.
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

#: Socket types that cannot be listeners for HTTP, with their directive.
_OTHER_TYPES = {
    socket.SOCK_DGRAM: "a datagram socket (ListenDatagram=)",
    socket.SOCK_RAW: "a raw socket (ListenNetlink=)",
}


def listen_fds() -> dict[int, str]:
    """Return the listeners that systemd passed to this process.

    - none passed, or passed to another process (``LISTEN_PID``): an empty dict;
    - passed: descriptor → ``FileDescriptorName=``, in the order of the units, each
      checked to be a listening TCP or Unix stream socket, or a mailbox
      (:func:`is_mailbox`), and set close-on-exec.

    The environment is not changed: see :func:`unset_environment`.

    :raises ActivationError: a variable is malformed, or a descriptor is closed or not a
        listener (sd_listen_fds(3), systemd.socket(5)).
    """
    for variable in (LISTEN_FDS, LISTEN_PID):
        _check_number(variable)
    try:
        fds: dict[int, str] = daemon.listen_fds_with_names(unset_environment=False)
    except OSError as error:
        raise ActivationError(_explain(error)) from error
    for fd, name in fds.items():
        _check_listener(fd, f"descriptor {fd} (FileDescriptorName={name})")
    return fds


def is_mailbox(fd: int) -> bool:
    """Whether `fd` is a Unix socket as ``ListenSequentialPacket=`` makes it."""
    return daemon.is_socket(fd, socket.AF_UNIX, socket.SOCK_SEQPACKET)  # type: ignore[no-any-return]


def why_none() -> str:
    """Return why :func:`listen_fds` found no listeners, as the end of a sentence."""
    if LISTEN_FDS not in os.environ:
        return f"{LISTEN_FDS} is not set"
    pid = os.environ.get(LISTEN_PID, "")
    found = f"{LISTEN_PID}={pid} names another process" if pid else f"{LISTEN_PID} is not set"
    return f"{found}, this is {os.getpid()}: start gunicorn with exec, not from a shell or launcher"


def unset_environment(environ: MutableMapping[str, str]) -> None:
    """Remove the variables, so that no child process takes the listeners for its own."""
    for variable in (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES):
        environ.pop(variable, None)


def _check_number(variable: str) -> None:
    value = os.environ.get(variable)
    if value is not None and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ActivationError(
            f"{variable}={value!r} is not a positive number: systemd sets it, "
            "so remove Environment= lines and wrappers that change it"
        )


def _explain(error: OSError) -> str:
    """Say which variable made sd_listen_fds_with_names(3) fail."""
    count = int(os.environ[LISTEN_FDS])
    names = os.environ.get(LISTEN_FDNAMES)
    if error.errno == errno.EBADF:
        fd = _first_closed(count)
        return (
            f"{LISTEN_FDS}={count} but descriptor {fd} is closed: "
            "start gunicorn directly from ExecStart=, or with a launcher that keeps descriptors open"
        )
    if names is not None and names.count(":") + 1 != count:
        return (
            f"{LISTEN_FDNAMES}={names!r} names {names.count(':') + 1} descriptors "
            f"but {LISTEN_FDS}={count}: systemd sets both, so remove what changes one of them"
        )
    return (
        f"{LISTEN_PID}={os.environ.get(LISTEN_PID)} and {LISTEN_FDS}={count} cannot be used ({error.strerror}): "
        "systemd sets both, so remove what changes one of them"
    )


def _first_closed(count: int) -> int:
    start: int = daemon.LISTEN_FDS_START
    for fd in range(start, start + count):
        try:
            os.fstat(fd)
        except OSError:
            return fd
    return start + count


def _check_listener(fd: int, where: str) -> None:
    if daemon.is_fifo(fd):
        raise ActivationError(f"{where} is a FIFO (ListenFIFO=): use ListenStream=")
    if not daemon.is_socket(fd):
        raise ActivationError(f"{where} is not a socket: only ListenStream= makes listeners for HTTP")
    for kind, what in _OTHER_TYPES.items():
        if daemon.is_socket(fd, type=kind):
            raise ActivationError(f"{where} is {what}: use ListenStream=")
    if not any(daemon.is_socket(fd, family) for family in FAMILIES):
        raise ActivationError(f"{where} is neither TCP nor a Unix socket: give ListenStream= a port or a path")
    if not daemon.is_socket(fd, listening=1):
        raise ActivationError(
            f"{where} is a connection, not a listener: set Accept=no in the .socket unit "
            "and do not use StandardInput=socket"
        )
