"""The wall clock of the service, which jumps: a library that it preloads, compiled here (clock.c)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.support.machine import Machine

SOURCE = Path(__file__).parent / "clock.c"
_FILE, _LIBRARY = "/srv/chaos-clock", "/usr/local/lib/chaos-clock.so"
#: For the unit of a service whose clock jumps.
SETTINGS = f"Environment=LD_PRELOAD={_LIBRARY} CHAOS_CLOCK={_FILE}\n"


def build(library: Path) -> None:
    """Compile the library."""
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)


def install(machine: Machine) -> None:
    """Compile the library for the machine."""
    build(machine.path(_LIBRARY))
    set_wrong(file_in(machine), 0)


def file_in(machine: Machine) -> Path:
    """Return the file that says how wrong the clock of the service is."""
    return machine.path(_FILE)


def set_wrong(file: Path, seconds: int) -> None:
    """Let the clock of processes with this file be so much later. They have it mapped: it stays the same one."""
    file.touch()
    with file.open("r+b", buffering=0) as opened:
        opened.write(struct.pack("q", seconds))
