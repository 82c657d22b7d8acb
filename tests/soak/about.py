"""What machine and versions the figures are of."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tests.support.machine import Machine

_VERSIONS = """
import importlib.metadata, platform
print("Python", platform.python_version())
for name in ("gunicorn", "Flask", "flask-socketact", "gevent"):
    print(name, importlib.metadata.version(name))
"""


def describe(machine: Machine) -> dict[str, str]:
    """Return the machine and the versions as names and values."""
    versions = machine.run("/srv/app/venv/bin/python3", "-c", _VERSIONS).stdout.splitlines()
    os_release = machine.run("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"').stdout.strip()
    return {
        "kernel": platform.release(),
        "CPU": f"{_first('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} usable",
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "operating system": os_release,
        "systemd": machine.systemctl("--version").stdout.splitlines()[0].removeprefix("systemd "),
        **dict(line.split(" ", 1) for line in versions),
    }


def _first(path: str, name: str) -> str:
    """Return the value of the first line with this name."""
    for line in Path(path).read_text().splitlines():
        found, _, value = line.partition(":")
        if found.strip() == name:
            return value.strip()
    return "0 (unknown)"
