"""A browser, and reports for it to open."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from flask_socketact import files
from flask_socketact.cli.rehearse import clients, report, target
from flask_socketact.cli.rehearse.clients import Group
from flask_socketact.cli.rehearse.outcome import judge, parse_conditions
from flask_socketact.cli.rehearse.recording import Recording, Restart
from flask_socketact.cli.rehearse.run import Plan

#: What a hostile service, or user, could want to be run in the browser.
HOSTILE = "</script><img src=x onerror=document.title='run'>"


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,1600"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


KINDS = (clients.NEW, clients.KEEP_ALIVE, clients.LONG)


def run(
    title: str,
    *,
    failures: int,
    requests: int = 2000,
    closed: int = 0,
    restarts: Sequence[Restart] = (),
    fail_on: str = "failed>0,closed>0",
) -> dict[str, Any]:
    """Return a run of 20 s, as the report draws it; without other `restarts`, with those at 5 and 12 s."""
    groups = [Group(kind, 3, target.parse("http://127.0.0.1:8000/")) for kind in KINDS]
    recording = Recording([kind.name for kind in KINDS], first_generation="main process 100", seconds=20.0)
    chance = random.Random(title)  # noqa: S311
    for number in range(requests):
        kind = number % 10 // 8 + (number % 100 == 99)
        took = chance.lognormvariate(-6, 0.4) + (2.0 if kind == 2 else 0.0)
        recording.add(kind, number / requests * 18, took, 0.0)
    for number in range(failures):
        recording.add(0, 5.1 + number / 1000, 1.5, 0.0, f"connection reset {HOSTILE}" if number % 2 else "status 502")
    for number in range(closed):
        recording.add_closed(1, 5.0 + number / 1000)
    recording.restarts = list(restarts) or [
        Restart(5.0, 6.5, 0, "", "main process 200"),
        Restart(12.0, 13.0, 0 if not failures else 1, HOSTILE, ""),
    ]
    plan = Plan(groups, ["systemctl", "restart", "app"])
    return report.describe(title, plan, recording, judge(recording, parse_conditions(fail_on)))


def open_browser() -> Chrome:
    """Start one; a ``with`` block ends it."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))


def visit(browser: Chrome, path: Path, runs: list[dict[str, Any]]) -> Chrome:
    """Open the report of these runs."""
    files.write(path, report.render(runs))
    console_messages(browser)  # from the previous page
    browser.get(path.as_uri())
    return browser


def console_messages(browser: Chrome) -> list[dict[str, Any]]:
    """Return the new messages in the browser's console."""
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]


def use(browser: Chrome, scheme: str) -> None:
    """Choose a color scheme: light or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
