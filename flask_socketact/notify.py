"""The few messages we send to the service manager: sd_notify(3), one function each.

``NOTIFY_SOCKET`` is taken out of the environment at the start of the master and set
only while a message is sent. So neither gunicorn, which says ``READY=1`` before it has
forked a worker, nor a process that the application starts can speak in our name.
"""

from __future__ import annotations

import os
import select
from collections.abc import MutableMapping, Sequence

from systemd import daemon

from flask_socketact.errors import NotifyError

NOTIFY_SOCKET = "NOTIFY_SOCKET"


def take_address(environ: MutableMapping[str, str]) -> str | None:
    """Remove and return the manager's address; None outside a ``Type=notify`` unit."""
    return environ.pop(NOTIFY_SOCKET, None)


def ready(address: str | None, text: str) -> None:
    """Say that the service answers requests (``READY=1``), and `text` as its status."""
    _send(address, "READY=1", text)


def stopping(address: str | None, text: str) -> None:
    """Say that the service shuts down (``STOPPING=1``), and `text` as its status."""
    _send(address, "STOPPING=1", text)


def status(address: str | None, text: str) -> None:
    """Set the line that ``systemctl status`` shows."""
    _send(address, None, text)


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
        daemon.notify(message, fds=fds)
    except OSError as error:
        raise NotifyError(
            f"cannot notify systemd at {NOTIFY_SOCKET}={address} ({error.strerror}): "
            "the service runs on, but systemctl does not learn its state"
        ) from error
    finally:
        del os.environ[NOTIFY_SOCKET]
