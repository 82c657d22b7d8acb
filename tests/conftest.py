"""Options of the test run, and figures that it prints at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEMD_RING = Path(__file__).parent / "systemd"
FIGURE = "figure"  #: a property of a test's report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-systemd", action="store_true", help="leave out what needs root and a booted systemd")
    parser.addoption(
        "--tree",
        default="/",
        help="boot another Debian, made by debootstrap, with this package in TREE/srv/app/venv",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-systemd"):
        left_out = [item for item in items if item.path.is_relative_to(SYSTEMD_RING)]
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
