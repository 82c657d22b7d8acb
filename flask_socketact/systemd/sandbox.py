"""Which directive of its unit has kept this process from something: systemd.exec(5).

Only what can be verified is named: a directive that is not the cause would send an administrator the wrong way, and
weaken the sandbox for nothing.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from dataclasses import dataclass

from flask_socketact.linux import mounts

#: What ``ProtectHome=`` hides.
HOMES = ("/home", "/root", "/run/user")
#: Directives that create a folder for the service's user, and the folder that they create it in.
_CREATES = {
    "/var/log": "LogsDirectory",
    "/var/cache": "CacheDirectory",
    "/var/lib": "StateDirectory",
    "/run": "RuntimeDirectory",
}
#: The kernel's own: no directive makes all of it writable.
_KERNEL = ("/proc", "/sys", "/dev")
#: What systemd mounts over a folder that it hides, as proc(5) names it.
_HIDDEN = "/inaccessible/dir"
#: Characters of a path that need no quotes in a unit.
_PLAIN = re.compile(r"[A-Za-z0-9/._@:+=,~-]+")
#: Names of folders, and not of files.
_FOLDER = re.compile(r"[A-Za-z0-9_-]+")
#: Types of a socket are smaller: the kernel refuses it with EINVAL for any family, after the sandbox has looked.
_NO_TYPE = 15


@dataclass(frozen=True)
class Refusal:
    """Something that the sandbox has refused."""

    what: str  #: ``made writing to … fail``: the predicate of a sentence about the sandbox; may have any character
    remedy: str  #: ``add ReadWritePaths=…``


def of_path(path: str, number: int) -> Refusal | None:
    """Return what the sandbox has refused if `path` could not be used because of the error `number`.

    :returns: None if the sandbox is not the cause, or not for sure
    :raises OSError: that cannot be found out.
    """
    path = os.path.abspath(path)
    home = next((home for home in HOMES if path.startswith(f"{home}/")), None)
    if home is not None and _is_hidden(home):
        what = f"hides {home} and so made {path} fail ({os.strerror(number)})"
        return Refusal(what, "set ProtectHome=read-only, and ReadWritePaths= for what it writes there,")
    if number != errno.EROFS or path.startswith(tuple(f"{folder}/" for folder in _KERNEL)):
        return None
    folder = _existing_folder(path)
    real = os.path.realpath(folder)
    if not mounts.is_read_only(real) or mounts.mount_of(real).is_read_only:
        return None
    directive = _directive(path, folder)
    what = f"made writing to {path} fail ({os.strerror(number)})"
    return Refusal(what, f"add {directive}") if directive is not None else None


def of_family(family: int) -> Refusal | None:
    """Return what the sandbox has refused if a socket of an address family could not be made.

    :returns: None if the kernel has refused it, not the sandbox
    """
    try:
        socket.socket(family, _NO_TYPE).close()
    except OSError as failed:
        is_refused = failed.errno == errno.EAFNOSUPPORT
    else:
        is_refused = False
    if not is_refused:
        return None
    name = socket.AddressFamily(family).name
    what = f"made a socket of {name} fail ({os.strerror(errno.EAFNOSUPPORT)})"
    return Refusal(what, f"add RestrictAddressFamilies={name}")


def _is_hidden(home: str) -> bool:
    """Return whether ``ProtectHome=`` hides `home`: with ``yes`` it is locked, with ``tmpfs`` empty."""
    mount = mounts.mount_of(home)
    return mount.point == home and (
        mount.root.endswith(_HIDDEN) or (mount.kind == "tmpfs" and mounts.is_read_only(home))
    )


def _existing_folder(path: str) -> str:
    """Return the folder of `path`, or the first one above it that exists."""
    folder = os.path.dirname(path)
    while folder != "/" and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _directive(path: str, folder: str) -> str | None:
    """Return the directive that lets this user write to `path`; `folder` is the first one above it that exists."""
    if mounts.only_mount_forbids_writing(folder) or (_is_file(path) and mounts.only_mount_forbids_writing(path)):
        while not _PLAIN.fullmatch(folder):
            folder = os.path.dirname(folder)
        return f"ReadWritePaths={folder}" if folder != "/" else None
    name = path.removeprefix(folder).split("/")[1]
    if folder in _CREATES and _FOLDER.fullmatch(name):
        return f"{_CREATES[folder]}={name}"
    return None


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
