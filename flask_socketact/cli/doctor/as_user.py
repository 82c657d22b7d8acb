"""Run a program as the service's user, and leave no process behind.

A program started directly by root could leave processes in root's session, with none of the service's limits. So it
runs in a transient service (systemd-run) with limits of its own, which gains no privileges and ends all its processes.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress

from flask_socketact.cli import bounded
from flask_socketact.cli.doctor.account import Account
from flask_socketact.errors import ManagerError
from flask_socketact.systemd.manager import PATH, call

#: systemd.service(5), systemd.exec(5), systemd.resource-control(5), systemd.kill(5).
_LIMITS = ("NoNewPrivileges=yes", "MemoryMax=1G", "TasksMax=256", "KillMode=control-group", "KillSignal=SIGKILL")
#: A folder that only root may write to, and that a reboot empties.
_FOLDER = "/run"


def run(
    words: list[str], user: Account, variables: Mapping[str, str], *, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program as `user` in the folder ``/``, with these environment variables.

    It does not get our terminal, which it could type into. Without root, it runs as a child process.

    :raises OSError: it cannot be run, or prints too much.
    :raises ValueError: a variable has a zero byte.
    :raises TimeoutExpired: it takes longer than `seconds`.
    """
    for name, value in variables.items():
        if "\0" in value:
            raise ValueError(f"{name}= has a zero byte")
    if os.geteuid() != 0:
        return bounded.run(words, cwd="/", env=dict(variables), start_new_session=True, seconds=seconds)
    unit = f"flask-socketact-doctor-{secrets.token_hex(8)}.service"
    # Not as properties of the unit: every user may read those.
    with tempfile.NamedTemporaryFile("w", dir=_FOLDER, prefix="flask-socketact-", encoding="utf-8") as file:
        file.writelines(f"{name}={_quoted(value)}\n" for name, value in variables.items())
        file.flush()
        try:
            return bounded.run(_in_service(words, user, unit, file.name, seconds), env=_environment(), seconds=seconds)
        except BaseException:
            with suppress(ManagerError, subprocess.TimeoutExpired):
                call("systemctl", "stop", "--", unit, seconds=seconds)
            raise


def _in_service(words: list[str], user: Account, unit: str, environment_file: str, seconds: float) -> list[str]:
    groups = " ".join(map(str, sorted(user.groups)))
    properties = (
        *(f"User={user.uid}", f"Group={user.gid}", f"SupplementaryGroups={groups}"),
        *(f"EnvironmentFile={environment_file}", f"RuntimeMaxSec={seconds:g}"),
        *_LIMITS,
    )
    options = [option for line in properties for option in ("--property", line)]
    command = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", f"--unit={unit}")
    # systemd expands variables in these words, as in ExecStart=.
    return [*command, *options, "--", *(word.replace("$", "$$") for word in words)]


def _environment() -> dict[str, str]:
    return {"PATH": PATH, "LC_ALL": "C"}


def _quoted(value: str) -> str:
    """Return a value quoted for ``EnvironmentFile=``."""
    return '"{}"'.format(re.sub(r'(["\\`$])', r"\\\1", value))
