"""The command ``flask-socketact``."""

from __future__ import annotations

import click

from flask_socketact.cli.deploy.command import deploy
from flask_socketact.cli.doctor.command import doctor
from flask_socketact.cli.init.command import init
from flask_socketact.cli.rehearse.command import rehearse
from flask_socketact.cli.status.command import status
from flask_socketact.cli.units.command import units


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 a promise is broken, or the release was not deployed; 2 wrong usage; 3 nothing could"
    " be done; 4 an administrator must act; 130 Ctrl-C. See the manual page, flask-socketact(8).",
)
@click.version_option(package_name="flask-socketact")
def main() -> None:
    """Run a Flask application with gunicorn as a socket-activated service of systemd."""


main.add_command(deploy)
main.add_command(doctor)
main.add_command(init)
main.add_command(rehearse)
main.add_command(status)
main.add_command(units)
