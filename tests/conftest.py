"""Options of the test run, and figures that it prints at the end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

#: What needs root and a booted systemd.
BOOTED = [Path(__file__).parent / ring for ring in ("systemd", "fleet")]
LONG = "long"  #: a marker
FIGURE = "figure"  #: a property of a test's report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-systemd", action="store_true", help="leave out what needs root and a booted systemd")
    parser.addoption("--long", action="store_true", help="also run what takes minutes: many deploys of a fleet")
    parser.addoption(
        "--tree",
        default="/",
        help="boot another Debian, made by debootstrap, with this package in TREE/srv/app/venv",
    )


def pytest_configure() -> None:
    """Let the commands that tests start handle Ctrl-C: a shell's background job ignores it, and so would they."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [
        item
        for item in items
        if (config.getoption("--no-systemd") and any(map(item.path.is_relative_to, BOOTED)))
        or (item.get_closest_marker(LONG) and not config.getoption("--long"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a line that is printed when all tests are done."""
    return lambda line: request.node.user_properties.append((FIGURE, line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, line in report.user_properties if report.when == "call" else ():
            if name == FIGURE:
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")
