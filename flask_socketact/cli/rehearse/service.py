"""The service that listens at an address, and the command that restarts it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flask_socketact.errors import ManagerError
from flask_socketact.systemd.manager import Manager

#: Exit status of a command that cannot be run, as in shells.
CANNOT_RUN = 127
#: Timeout of a restart, in seconds: longer than the timeouts of systemd.
RESTART_TIMEOUT = 300.0


@dataclass(frozen=True)
class Service:
    """A service that a socket unit starts."""

    name: str
    manager: Manager

    def restart_command(self) -> list[str]:
        """Return the command that restarts the service."""
        return ["systemctl", self.manager.option, "restart", self.name]

    def generation(self) -> str:
        """Return a name for the current generation; empty if it is unknown."""
        pid = self._property("MainPID")
        return f"main process {pid}" if pid not in ("", "0") else ""

    def last_change(self) -> str:
        """Return when a restart or reload last began or ended; empty if it is unknown."""
        return self._property("StateChangeTimestampMonotonic")

    def _property(self, name: str) -> str:
        try:
            return self.manager.show(self.name, name)[name]
        except ManagerError:
            return ""


def find(places: Collection[str]) -> Service | None:
    """Return the service of the socket unit that listens at one of `places`; None if there is none.

    :param places: in the form of ``ListenStream=``
    """
    managers = [Manager(user=False), *([Manager(user=True)] if "XDG_RUNTIME_DIR" in os.environ else [])]
    for manager in managers:
        try:
            sockets = json.loads(manager.run("systemctl", manager.option, "list-sockets", "--output=json"))
        except (ManagerError, ValueError):
            continue
        for found in sockets:
            if found.get("listen") in places and str(found.get("activates", "")).endswith(".service"):
                return Service(found["activates"], manager)
    return None


async def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a command, and return its exit status and the first line on stderr, which has the reason."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return CANNOT_RUN, f"{command[0]}: {error.strerror}"
    try:
        _, said = await asyncio.wait_for(process.communicate(), RESTART_TIMEOUT)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return -1, f"did not finish within {RESTART_TIMEOUT:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    lines = said.decode(errors="replace").strip().splitlines()
    return process.returncode or 0, lines[0] if lines else ""
