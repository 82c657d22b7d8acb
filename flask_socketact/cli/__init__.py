"""The command ``flask-socketact``."""

from __future__ import annotations

import click

from flask_socketact.cli.deploy.command import deploy
from flask_socketact.cli.doctor.command import doctor
from flask_socketact.cli.init.command import init
from flask_socketact.cli.rehearse.command import rehearse
from flask_socketact.cli.status.command import status
from flask_socketact.cli.units.command import units


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flask-socketact")
def main() -> None:
    """Serve a Flask application on listeners that systemd holds."""


main.add_command(deploy)
main.add_command(doctor)
main.add_command(init)
main.add_command(rehearse)
main.add_command(status)
main.add_command(units)
