"""The few messages we send to the service manager: sd_notify(3), one function each.

``NOTIFY_SOCKET`` is taken out of the environment at the start of the master and set
only while a message is sent. So neither gunicorn, which says ``READY=1`` before it has
forked a worker, nor a process that the application starts can speak in our name.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import MutableMapping, Sequence

from systemd import daemon

from flask_socketact.errors import NotifyError, SettingsError

NOTIFY_SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"


def take_address(environ: MutableMapping[str, str]) -> str | None:
    """Remove and return the manager's address; None outside a ``Type=notify`` unit."""
    return environ.pop(NOTIFY_SOCKET, None)


def take_watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Remove the manager's ``WatchdogSec=`` from `environ`, and return it in seconds; None when it is not for us.

    :raises SettingsError: it is no number: sd_watchdog_enabled(3).
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
    """Say that the service answers requests (``READY=1``), and `text` as its status."""
    _send(address, "READY=1", text)


def reloading(address: str | None, text: str) -> None:
    """Say that the service reloads, until it says that it is ready (``RELOADING=1``), and `text` as its status.

    ``Type=notify-reload`` compares the time with that of its signal.
    """
    _send(address, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", text)


def stopping(address: str | None, text: str) -> None:
    """Say that the service shuts down (``STOPPING=1``), and `text` as its status."""
    _send(address, "STOPPING=1", text)


def status(address: str | None, text: str) -> None:
    """Set the line that ``systemctl status`` shows."""
    _send(address, None, text)


def extend_timeout(address: str | None, seconds: float) -> None:
    """Ask the manager to wait so many more seconds for the end of what it waits for."""
    if address is not None:
        _notify(address, f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def watchdog(address: str | None) -> None:
    """Tell the manager that the service makes progress (``WATCHDOG=1``)."""
    if address is not None:
        _notify(address, "WATCHDOG=1")


def barrier(address: str | None) -> int | None:
    """Ask the manager to tell when it has acted upon all that was sent before: sd_notify_barrier(3).

    Returns a descriptor for :func:`is_passed`, to be closed; None without a manager.

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
    """Whether the manager has closed its end of `barrier`."""
    poll = select.poll()
    poll.register(barrier, 0)
    return bool(poll.poll(0))


def _send(address: str | None, state: str | None, text: str) -> None:
    """Send one datagram; nothing when there is no manager (`address` is None).

    :raises NotifyError: the manager cannot be reached at `address`.
    """
    if address is None:
        return
    # A line break would start a field of its own, and systemd drops what is no UTF-8.
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    _notify(address, f"{state}\nSTATUS={line}" if state else f"STATUS={line}")


def _notify(address: str, message: str, fds: Sequence[int] = ()) -> None:
    os.environ[NOTIFY_SOCKET] = address
    try:
        if not _has_room(address):
            raise BlockingIOError(errno.EAGAIN, "it does not read what was sent before")
        daemon.notify(message, fds=fds)
    except OSError as error:
        raise NotifyError(
            f"cannot notify systemd at {NOTIFY_SOCKET}={address} ({error.strerror}): "
            "the service runs on, but systemctl does not learn its state"
        ) from error
    finally:
        del os.environ[NOTIFY_SOCKET]


def _has_room(address: str) -> bool:
    """Whether a datagram would be taken at once: sd_notify(3) waits for a manager that does not read."""
    if not address.startswith(("/", "@")):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address.replace("@", "\0", 1))
        except OSError:
            return True  # sd_notify(3) says it
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        return bool(poll.poll(0))
