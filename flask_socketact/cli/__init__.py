"""The command ``flask-socketact``."""

from __future__ import annotations

import click

from flask_socketact.cli.completion.command import completion
from flask_socketact.cli.deploy.command import deploy
from flask_socketact.cli.doctor.command import doctor
from flask_socketact.cli.exit_status import Commands
from flask_socketact.cli.init.command import init
from flask_socketact.cli.lb.command import lb
from flask_socketact.cli.list.command import list_services
from flask_socketact.cli.rehearse.command import rehearse
from flask_socketact.cli.status.command import status
from flask_socketact.cli.units.command import units


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 a promise is broken, a check failed, the service is not active, the release was not"
    " deployed, or a drained service still has requests; 2 the command line is wrong; 3 nothing was changed; 4 an"
    " administrator must act; 130 Ctrl-C. The manual page, flask-socketact(8), has examples.",
)
@click.version_option(package_name="flask-socketact")
def main() -> None:
    """Run a Flask application with gunicorn as a socket-activated service of systemd."""


main.add_command(completion)
main.add_command(deploy)
main.add_command(doctor)
main.add_command(init)
main.add_command(lb)
main.add_command(list_services)
main.add_command(rehearse)
main.add_command(status)
main.add_command(units)
