"""Where the application's own records go, in a process of its own: the loggers are those of the process."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

BEGIN = """
    import logging
    from flask_socketact.logs.handler import Handler
    from flask_socketact.logs.root import RootHandler, install_root_handler

    root, errors = logging.getLogger(), logging.getLogger("gunicorn.error")
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", dedent(BEGIN) + dedent(code)], capture_output=True, text=True)  # noqa: PLW1510
    assert (done.returncode, done.stderr) == (0, "")


def test_the_root_gets_a_handler_where_errors_go_to_the_journal() -> None:
    run("""
        errors.addHandler(Handler())
        install_root_handler()
        assert [type(handler) for handler in root.handlers] == [RootHandler]
        install_root_handler()
        assert len(root.handlers) == 1
    """)


def test_the_root_gets_no_handler_where_errors_go_elsewhere() -> None:
    run("""
        errors.addHandler(logging.StreamHandler())
        install_root_handler()
        assert root.handlers == []
    """)


def test_an_application_that_has_configured_logging_keeps_its_configuration() -> None:
    run("""
        errors.addHandler(Handler())
        logging.basicConfig()
        before = list(root.handlers)
        install_root_handler()
        assert root.handlers == before
    """)


@pytest.mark.parametrize("propagates", [True, False])
def test_flask_s_handler_is_removed_where_the_root_has_one(propagates: bool) -> None:
    """A record would be written twice, unless it does not reach the root."""
    run(f"""
        import flask
        logger = flask.Flask("shop").logger
        logger.propagate = {propagates}
        assert len(logger.handlers) == 1
        errors.addHandler(Handler())
        install_root_handler()
        assert len(logger.handlers) == {0 if propagates else 1}
    """)


@pytest.mark.parametrize("parent", [True, False])
def test_a_parent_that_does_not_propagate_keeps_records_from_the_root(parent: bool) -> None:
    run(f"""
        from flask_socketact.logs.root import _propagates
        logging.getLogger("shop").propagate = {not parent}
        assert _propagates(logging.getLogger("shop.prices")) is {not parent}
    """)
