"""The command ``flask-socketact``."""

from __future__ import annotations

import click

from flask_socketact.cli.init import init


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flask-socketact")
def main() -> None:
    """Serve a Flask application on listeners that systemd holds."""


main.add_command(init)
