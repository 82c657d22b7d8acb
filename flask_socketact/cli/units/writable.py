"""Which folders the user of a service that is taken over may write: the new unit's sandbox must let it."""

from __future__ import annotations

import os
import pwd
import stat
from itertools import islice

from flask_socketact.cli.units.existing import Existing, account
from flask_socketact.cli.units.served import Served

#: How many folders in the application's are looked at.
_MOST = 200


def find(existing: Existing, served: Served, user: str | None, directory: str, remarks: list[str]) -> list[str]:
    """Return what the service may write: what its unit says, and what its user may, unless the unit has a sandbox."""
    said = [path.lstrip("-+") for path in existing.write]
    if any(line.key == "ProtectSystem" and line.value == "strict" for line in existing.lines):
        return said
    try:
        entry = account(user) if user else None
    except KeyError:
        entry = None
    if entry is None:
        return said
    named = [*map(os.path.dirname, served.log_files), f"/var/log/{existing.name}", f"/var/cache/{existing.name}"]
    places = [entry.pw_dir, directory, *_folders_in(directory), *named]
    owned = [path for path in map(os.path.realpath, filter(None, places)) if _may_write(entry, path)]
    found = dict.fromkeys([*said, *owned])
    paths = [path for path in found if not any(path.startswith(f"{other}/") for other in found)]
    for path in paths:
        if path in owned:
            remarks.append(f"{user} may write to {path}, and so may the service: --write narrows it")
    return paths


def _folders_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [each.path for each in islice(entries, _MOST) if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _may_write(account: pwd.struct_passwd, path: str) -> bool:
    """Return whether a user may write to a folder, by its permissions. Places that all may write to are not meant."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    if path == "/" or not stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IWOTH:
        return False
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & stat.S_IWUSR)
    return bool(status.st_mode & stat.S_IWGRP) and status.st_gid in os.getgrouplist(account.pw_name, account.pw_gid)
