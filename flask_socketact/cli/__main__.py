"""``python -m flask_socketact.cli``: the command ``flask-socketact`` where it is not on PATH."""

from flask_socketact.cli import main

main(prog_name="flask-socketact")
