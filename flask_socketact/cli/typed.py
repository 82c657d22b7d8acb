"""The command ``flask-socketact`` as it can be typed: remedies quote it."""

from __future__ import annotations

import os
import shutil
import sys

from flask_socketact.systemd import unit_names


def command() -> str:
    """Return the command: by its name only if it is on PATH."""
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) != "flask-socketact":  # python -m, or flask socketact
        return f"{sys.executable} -m flask_socketact.cli"
    return "flask-socketact" if shutil.which("flask-socketact") == program else program


def lb_ready(name: str, *, user_manager: bool) -> str:
    """Return the command that gives a service its full share in HAProxy."""
    option = "--user-manager " if user_manager else ""
    return f"{command()} lb {option}{name.removesuffix('.service')} ready"


def units_again(name: str, *, user_manager: bool) -> str:
    """Return the command that installs the units of a service again."""
    options = "--user-manager --again" if user_manager else "--again"
    return f"{command()} units {options} {unit_names.template_of(name.removesuffix('.service'))}"
