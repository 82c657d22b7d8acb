"""The share of a service: how much of its weight in HAProxy it asks for, until when.

The file is all there is: ``NAME-agent@.service`` reads it for each agent-check of HAProxy, and sees by itself when the
share has ended. So no timer must fire, and nothing must be written, for a service to come back.

HAProxy is always told a weight, 0% to drain. Its words ``drain`` and ``ready`` set the administrative state of the
server, as the runtime API does: an agent that says ``ready`` ends ``set server … state maint``. A weight does not.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import files
from flask_socketact.errors import NotBegunError

DRAINED, READY = 0, 100

#: Where the files are: a service of the system's manager, and of a user's.
_FOLDERS = {False: "/var/lib/flask-socketact", True: "~/.local/state/flask-socketact"}
#: The share in percent; the boot in which it was set; and when it ends, in seconds since that boot.
_LINE = re.compile(r"(\d{1,3})% ([0-9a-f]{32}) (never|\d{1,18})\n?")
_BOOT, _UPTIME = "/proc/sys/kernel/random/boot_id", "/proc/uptime"


@dataclass(frozen=True)
class Share:
    """What HAProxy is told now."""

    #: Percent of the server's weight in HAProxy; None: none was ever set, and HAProxy is told nothing.
    weight: int | None
    expires_in: float | None = None  #: seconds until it is 100 again; None: never

    @property
    def state(self) -> str:
        """``unset``, ``drain``, ``ready`` or ``weight``."""
        names = {None: "unset", DRAINED: "drain", READY: "ready"}
        return names.get(self.weight, "weight")

    def __str__(self) -> str:
        texts = {
            "unset": "no share is set, HAProxy decides by itself",
            "drain": "drained, HAProxy sends no new requests",
            "ready": "ready, HAProxy sends its full share of the requests",
        }
        text = texts.get(self.state, f"HAProxy sends {self.weight}% of its share of the requests")
        return text if self.expires_in is None else f"{text}; ready again in {self.expires_in:.0f} s"


def path(name: str, *, user_manager: bool) -> Path:
    """Return the file of a service's share."""
    return Path(_FOLDERS[user_manager]).expanduser() / f"{name}.share"


def path_in_units(name: str, *, user_manager: bool) -> str:
    """Return the same with the specifiers of units."""
    return f"{_FOLDERS[user_manager].replace('~', '%h')}/{name}.share"


def read(name: str, *, user_manager: bool) -> Share:
    """Return the share of a service, as the agent does.

    :raises NotBegunError: the file cannot be read, or is malformed. HAProxy is told nothing then.
    """
    file = path(name, user_manager=user_manager)
    try:
        text = files.read(file)
    except FileNotFoundError:
        return Share(None)
    except OSError as error:
        raise NotBegunError(f"{file} cannot be read: {error.strerror}") from None
    found = _LINE.fullmatch(text)
    if found is None:
        raise NotBegunError(
            f"{file} is malformed, and HAProxy is told nothing: flask-socketact lb {name} ready repairs it"
        )
    weight, boot, end = found.groups()
    if boot != _boot():
        return Share(READY)
    if end == "never":
        return Share(int(weight))
    left = int(end) - _uptime()
    return Share(int(weight), round(left, 1)) if left > 0 else Share(READY)


def write(name: str, weight: int, *, seconds: int | None = None, user_manager: bool) -> None:
    """Set the share of a service. HAProxy hears of it with its next agent-check.

    :param weight: percent of the server's weight in HAProxy: `DRAINED`, `READY`, or between
    :param seconds: after this time it is `READY` again, without anything having to run; None: it lasts until a reboot
    :raises NotBegunError: it cannot be written, and is as before.
    """
    end = "never" if seconds is None else str(math.ceil(_uptime() + seconds))
    file = path(name, user_manager=user_manager)
    if not user_manager and os.geteuid() != 0:
        raise NotBegunError(f"{file} belongs to root: use sudo")
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Durable: if the machine loses power, HAProxy must hear 100% after it, and not nothing.
        files.write(file, f"{weight}% {_boot()} {end}\n", durable=True)
    except OSError as error:
        raise NotBegunError(f"{file} cannot be written: {error.strerror}: HAProxy is told the same as before") from None


def identity(name: str, *, user_manager: bool) -> str:
    """Return an identity of the share as it was written; empty if none is. The same share written again has another."""
    try:
        found = os.lstat(path(name, user_manager=user_manager))
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_mtime_ns}"


def _boot() -> str:
    return files.read(_BOOT).strip().replace("-", "")  # as %b in units


def _uptime() -> float:
    return float(files.read(_UPTIME).split()[0])
