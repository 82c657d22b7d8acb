"""The worker's signal handlers, and an application that sets its own. Each test is a process of its own."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import pytest

from flask_socketact.workers.signal_handlers import SignalHandlers
from tests.support.child import in_child

LOG: Any = logging.getLogger(__name__)


def ours(heard: list[str]) -> SignalHandlers:
    handlers = SignalHandlers(
        {
            signal.SIGTERM: lambda *_: heard.append("ours: TERM"),
            signal.SIGURG: lambda *_: heard.append("ours: URG"),
        },
        LOG,
    )
    handlers.restore()
    return handlers


def test_a_handler_of_the_application_gives_way_to_ours(caplog: pytest.LogCaptureFixture) -> None:
    def run() -> None:
        heard: list[str] = []
        handlers = ours(heard)
        caplog.clear()
        signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
        handlers.restore()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["ours: TERM"]
        assert "SIGTERM" in caplog.text

    assert in_child(run) == 0


def test_a_handler_that_is_set_again_and_again_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def run() -> None:
        handlers = ours([])
        caplog.clear()

        def theirs(*_: object) -> None: ...

        for _ in range(3):
            signal.signal(signal.SIGURG, theirs)
            handlers.restore()
        assert len(caplog.records) == 1

    assert in_child(run) == 0


def test_the_application_s_handler_for_sigterm_is_called_after_the_drain() -> None:
    def run() -> None:
        heard: list[str] = []
        handlers = ours(heard)
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(f"theirs: {number}"))
        signal.signal(signal.SIGURG, lambda *_: heard.append("never"))
        handlers.restore()
        handlers.call_application_handler()
        assert heard == [f"theirs: {signal.SIGTERM}"]

    assert in_child(run) == 0


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("broken")])
def test_an_error_in_the_application_s_handler_does_not_keep_the_worker(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> None:
        def fail(*_: object) -> None:
            raise error

        handlers = ours([])
        signal.signal(signal.SIGTERM, fail)
        handlers.restore()
        caplog.clear()
        handlers.call_application_handler()
        assert bool(caplog.records) == (not isinstance(error, SystemExit))

    assert in_child(run) == 0


@pytest.mark.parametrize("replaced", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_the_application_ignores_has_nothing_to_call(replaced: signal.Handlers) -> None:
    def run() -> None:
        handlers = ours([])
        signal.signal(signal.SIGTERM, replaced)
        handlers.restore()
        handlers.call_application_handler()

    assert in_child(run) == 0
