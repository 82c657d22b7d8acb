"""What ``status`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact.cli.status import output
from flask_socketact.cli.status.snapshot import Listener, Overview

if TYPE_CHECKING:
    import pytest


def test_ipv6_address(capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes what is in brackets for markup."""
    listener = Listener("[x]", "[fd00::5]:8000", queue=0, backlog=4096, is_listening=True)
    overview = Overview("app", "active", "", 1, (listener,), None, (), None, overlaps=True, remark="")
    output.show(overview)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["[x]", "[fd00::5]:8000", "0", "4,096"]
