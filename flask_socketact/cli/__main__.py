"""``python -m flask_socketact.cli``, for when the command is not on PATH."""

from flask_socketact.cli import main

main(prog_name="flask-socketact")
