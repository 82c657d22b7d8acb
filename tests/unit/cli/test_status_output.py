"""What ``status`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact.cli.status import output
from flask_socketact.cli.status.snapshot import Listener, Overview

if TYPE_CHECKING:
    import pytest


def test_ipv6_address(capsys: pytest.CaptureFixture[str]) -> None:
    """rich reads brackets as markup."""
    listener = Listener("[x]", "[fd00::5]:8000", queue=0, backlog=4096, is_listening=True)
    overview = Overview("app", "active", "", 1, (listener,), None, (), None, True, "", "", ())
    output.show(overview)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["[x]", "[fd00::5]:8000", "0", "4,096"]


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    listener = Listener("\x1b[1ma", "/run/\x1b[2mb", queue=0, backlog=4096, is_listening=True)
    said = ("\x1b[3mc", "\x1b[4md\n", "\x1b[5me", ("\x1b[6mf",))
    status, remark, failure, warnings = said
    for text in (status, ""):  # the journal's word counts when the service has none
        seen = Overview("app", "failed", text, 0, (listener,), None, (), None, True, remark, failure, warnings)
        output.show(seen)
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert [mark for mark in "abdf" if f"m{mark}" not in shown] == []
        assert ("\n?[3mc\n" in shown, "\n?[5me\n" in shown) == (bool(text), not text)
