"""The service behind an address, as systemd knows it, and the command that restarts it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flask_socketact.errors import ManagerError
from flask_socketact.systemd.manager import Manager

#: Exit status of a command that cannot be run, as shells have it.
CANNOT_RUN = 127
#: A restart that takes longer has failed. Longer than systemd's own time-outs. Seconds.
RESTART_TIMEOUT = 300.0


@dataclass(frozen=True)
class Service:
    """A service that a socket unit starts."""

    name: str
    manager: Manager

    def restart_command(self) -> list[str]:
        return ["systemctl", self.manager.option, "restart", self.name]

    def generation(self) -> str:
        """Return what tells this generation from others, for people; empty if the manager does not say."""
        try:
            pid = self.manager.show(self.name, "MainPID")["MainPID"]
        except ManagerError:
            return ""
        return f"main process {pid}" if pid != "0" else ""


def find(places: Collection[str]) -> Service | None:
    """Return the service that is started by connections to one of `places`, as ``ListenStream=`` has them; None if no
    manager that answers has one."""
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
    """Run a command to its end, and return its exit status, and the last line that it says on stderr."""
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
        return -1, f"did not end within {RESTART_TIMEOUT:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    lines = said.decode(errors="replace").strip().splitlines()
    return process.returncode or 0, lines[-1] if lines else ""
