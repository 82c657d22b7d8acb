"""One tree of errors, and one table of exit statuses."""

from __future__ import annotations

import ast
from pathlib import Path

import flask_socketact
from flask_socketact import errors

PACKAGE = Path(flask_socketact.__file__).parent


def test_every_error_is_in_the_tree() -> None:
    """Classes are read from the source: importing all modules would need every extra."""
    tree = {name for name in vars(errors) if name.endswith("Error")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert node.name == "SocketActError" or bases & tree, f"{path}: {node.name}"
