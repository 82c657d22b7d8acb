"""Which message to systemd is due, and when."""

from __future__ import annotations

import pytest

from flask_socketact.master.service_state import Phase, ServiceState


def test_ready_is_due_after_a_start_and_after_each_reload() -> None:
    state = ServiceState()
    assert state.is_loading
    assert state.due(is_reloading=False) is Phase.READY
    state.note(Phase.READY)
    assert not state.is_loading
    assert state.due(is_reloading=False) is None
    assert state.due(is_reloading=True) is Phase.RELOADING
    state.note(Phase.RELOADING)
    assert state.is_loading
    assert state.due(is_reloading=True) is None
    assert state.due(is_reloading=False) is Phase.READY


def test_a_message_that_could_not_be_sent_is_due_again() -> None:
    state = ServiceState()
    for _ in range(2):
        assert state.due(is_reloading=False) is Phase.READY


@pytest.mark.parametrize("is_reloading", [False, True])
def test_no_message_is_due_after_stopping(is_reloading: bool) -> None:
    state = ServiceState()
    state.note(Phase.STOPPING)
    assert state.due(is_reloading=is_reloading) is None


def test_a_reload_keeps_that_the_service_was_ready() -> None:
    state = ServiceState()
    assert not state.was_ready
    state.note(Phase.READY)
    state.note(Phase.RELOADING)
    assert state.was_ready
