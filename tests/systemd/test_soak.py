"""``script/soak``: a short run, interrupted and resumed, and its report in a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.plan import WITH, WITHOUT
from tests.soak.results import REQUESTS, RESTART, SESSION, Results
from tests.soak.verdict import judge
from tests.support.browser import console_messages, open_browser

ROOT = Path(__file__).parents[2]
RATE = 100
#: Wide enough for two columns of charts, and a phone.
WIDTHS = (1280, 320)


def soak(*options: str) -> subprocess.Popen[str]:
    """Start what script/soak runs when everything is installed."""
    command = (sys.executable, "-m", "tests.soak", *options)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interrupt_after_a_restart(process: subprocess.Popen[str], folder: Path) -> str:
    """Press Ctrl-C when the first restart has ended; return the output."""
    deadline = time.monotonic() + 90
    path = folder / "soak.jsonl"
    while not (path.exists() and '"kind": "restart"' in path.read_text()):
        assert time.monotonic() < deadline, process.communicate()[0]
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=90)[0]


def test_a_run_that_is_interrupted_and_resumed(
    request: pytest.FixtureRequest, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    folder = tmp_path / "run"
    tree = request.config.getoption("--tree")
    options = ("--restarts=3", "--every=1", f"--rate={RATE}", "--connections=8", f"--tree={tree}", f"--folder={folder}")
    output = interrupt_after_a_restart(soak(*options), folder)
    assert f"go on with: script/soak --resume {folder}" in output
    assert "the run is not complete" in (folder / "report.html").read_text()

    resumed = soak("--resume", str(folder))
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    kept = Results.resume(folder)
    kept.close()
    verdict = judge(kept)
    assert len(kept.of(SESSION)) == 2
    assert [restart["number"] for restart in kept.of(RESTART)] == [1, 2, 3]
    assert [restart["verb"] for restart in kept.of(RESTART)] == ["restart", "restart", "reload"]
    total = verdict.total
    assert total.sent == total.answered > 5 * RATE
    assert (total.failed, total.closed, total.opened, total.unaccounted) == ({}, 0, 2 * 8, 0)
    assert min(len(verdict.parts[name].latency) for name in (WITH, WITHOUT)) > RATE
    # Workers of four generations at least have responded: the restarts were real.
    assert sum(each["processes"] for each in kept.of(REQUESTS) if each["phase"] == WITH) >= 8
    figure(f"{total.sent} requests, {total.failed.total()} failed, {total.closed} connections closed")
    assert_readable(folder / "report.html")


def assert_readable(report: Path) -> None:
    """Open the report: no message in the console, and not wider than the screen."""
    with open_browser() as browser:
        for width in WIDTHS:
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 1000}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(report.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert console_messages(browser) == []
        assert re.fullmatch(r"Endurance: 3 restarts, [\d,]+ requests", browser.title)


def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    for options, expected in (
        (("--resume", str(tmp_path)), f"{tmp_path}/soak.jsonl: No such file or directory"),
        (("--resume", str(tmp_path), "--rate", "5"), "leave out the others"),
        (("--restarts", "3", "--hours", "1"), "exclude each other"),
    ):
        process = soak(*options)
        output, _ = process.communicate(timeout=60)
        assert expected in output.splitlines()[-1]
        assert process.returncode in (2, 3)
    assert os.listdir(tmp_path) == []
