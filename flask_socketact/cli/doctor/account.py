"""The user and groups that a service runs as."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_socketact.errors import AccountError

if TYPE_CHECKING:
    from flask_socketact.systemd.unit import Unit


@dataclass(frozen=True)
class Account:
    """A user, and the groups of a process of the service."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]
    home: str
    shell: str

    def may_write(self, owner: int, group: int, mode: int) -> bool:
        """Return whether a file's permissions let this user write: the first class that matches decides."""
        if self.uid == 0:
            return True
        if self.uid == owner:
            return bool(mode & 0o200)
        if group in self.groups:
            return bool(mode & 0o020)
        return bool(mode & 0o002)


def user_id(name: str) -> pwd.struct_passwd:
    """Return a user by name or number.

    :raises AccountError: there is no such user.
    """
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise AccountError(f"there is no user {name}") from None


def group_id(name: str) -> int:
    """Return the number of a group by name or number.

    :raises AccountError: there is no such group.
    """
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise AccountError(f"there is no group {name}") from None


def account(service: Unit, *, user_manager: bool) -> Account:
    """Return the account of a service: ``User=``, ``Group=`` and ``SupplementaryGroups=``, as systemd applies them.

    :raises AccountError: one of them does not exist.
    """
    found = pwd.getpwuid(os.getuid()) if user_manager else user_id(service["User"] or "root")
    gid = group_id(service["Group"]) if service["Group"] else found.pw_gid
    more = [group_id(name) for name in service["SupplementaryGroups"].split()]
    groups = frozenset((gid, *os.getgrouplist(found.pw_name, gid), *more))
    return Account(found.pw_name, found.pw_uid, gid, groups, found.pw_dir, found.pw_shell)
