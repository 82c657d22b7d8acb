"""The few messages we send to the service manager: sd_notify(3), one function each.

``NOTIFY_SOCKET`` is removed from the environment at the start of the master, and set only while a message is sent. So
neither gunicorn, which sends ``READY=1`` before it has forked a worker, nor a child process of the application can send
messages in our name.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import MutableMapping, Sequence

from systemd import daemon

from flask_socketact import addresses
from flask_socketact.errors import NotifyError, SettingsError

NOTIFY_SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"


def take_address(environ: MutableMapping[str, str]) -> str | None:
    """Remove and return the manager's address; None outside a ``Type=notify`` unit."""
    return environ.pop(NOTIFY_SOCKET, None)


def take_watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Remove the manager's ``WatchdogSec=`` from `environ`, and return it in seconds; None when it is not for us.

    :raises SettingsError: it is not a positive number: sd_watchdog_enabled(3).
    """
    microseconds, pid = environ.pop(WATCHDOG_USEC, None), environ.pop(WATCHDOG_PID, None)
    if microseconds is None or pid not in (None, str(os.getpid())):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0):
        raise SettingsError(
            f"{WATCHDOG_USEC}={microseconds!r} is not a positive number: systemd sets it, from WatchdogSec=, "
            "so remove Environment= lines and wrappers that change it"
        )
    return int(microseconds) / 1e6


def ready(address: str | None, text: str) -> None:
    """Report that the service serves requests (``READY=1``), with a status text."""
    _send(address, "READY=1", text)


def reloading(address: str | None, text: str) -> None:
    """Report that the service reloads, until it reports ready again (``RELOADING=1``), with a status text.

    The manager compares the time with that of its signal (``Type=notify-reload``).
    """
    _send(address, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", text)


def stopping(address: str | None, text: str) -> None:
    """Report that the service shuts down (``STOPPING=1``), with a status text."""
    _send(address, "STOPPING=1", text)


def status(address: str | None, text: str) -> None:
    """Set the status text, which ``systemctl status`` shows (``STATUS=``)."""
    _send(address, None, text)


def extend_timeout(address: str | None, seconds: float) -> None:
    """Ask the manager to extend the timeout of the current job, from now on (``EXTEND_TIMEOUT_USEC=``)."""
    if address is not None:
        _notify(address, f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def watchdog(address: str | None) -> None:
    """Report that the service makes progress (``WATCHDOG=1``)."""
    if address is not None:
        _notify(address, "WATCHDOG=1")


def barrier(address: str | None) -> int | None:
    """Ask the manager to signal when it has processed all earlier messages: sd_notify_barrier(3).

    Return a descriptor for :func:`is_passed`, which the caller closes; None without a manager.

    :raises NotifyError: the manager cannot be reached at `address`.
    """
    if address is None:
        return None
    ours, managers = os.pipe2(os.O_CLOEXEC)
    try:
        _notify(address, "BARRIER=1", [managers])
    except NotifyError:
        os.close(ours)
        raise
    finally:
        os.close(managers)
    return ours


def is_passed(barrier: int) -> bool:
    """Whether the manager has processed all messages sent before `barrier`."""
    poll = select.poll()
    poll.register(barrier, 0)
    return bool(poll.poll(0))


def _send(address: str | None, state: str | None, text: str) -> None:
    """Send one datagram; do nothing when there is no manager (`address` is None).

    :raises NotifyError: the manager cannot be reached at `address`.
    """
    if address is None:
        return
    # A line break would start another field, and systemd ignores what is not UTF-8.
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    _notify(address, f"{state}\nSTATUS={line}" if state else f"STATUS={line}")


def _notify(address: str, message: str, fds: Sequence[int] = ()) -> None:
    os.environ[NOTIFY_SOCKET] = address
    try:
        if not _has_room(address):
            raise BlockingIOError(errno.EAGAIN, "it does not read earlier messages")
        daemon.notify(message, fds=fds)
    except OSError as error:
        raise NotifyError(
            f"cannot notify systemd at {NOTIFY_SOCKET}={address} ({error.strerror}): "
            "the service keeps running, but systemctl does not know its state"
        ) from error
    finally:
        del os.environ[NOTIFY_SOCKET]


def _has_room(address: str) -> bool:
    """Whether a datagram can be sent without waiting: sd_notify(3) would wait for a manager that does not read."""
    if not addresses.is_unix(address):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(addresses.unix_path(address))
        except OSError:
            return True  # sd_notify(3) reports it
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        return bool(poll.poll(0))
