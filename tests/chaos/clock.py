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


def install(machine: Machine) -> None:
    """Compile the library for the machine."""
    target = str(machine.path(_LIBRARY))
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, str(SOURCE)], check=True)
    set_wrong(machine, 0)


def set_wrong(machine: Machine, seconds: int) -> None:
    """Let the clock be so much later than the machine's. Processes have the file mapped: it stays the same one."""
    file = machine.path(_FILE)
    file.touch()
    with file.open("r+b", buffering=0) as opened:
        opened.write(struct.pack("q", seconds))
