"""The output of ``systemctl show``, as data."""

from __future__ import annotations

import pytest

from flask_socketact.systemd.unit import parse_properties


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_the_status_text_of_a_service_cannot_forge_properties(end: str) -> None:
    """``STATUS=`` has no line feed, but may have other characters that end a line for Python."""
    text = f"StatusText=well{end}User=root{end}WorkingDirectory=/bin\nUser=app\nWorkingDirectory=/srv/app\n"
    found = parse_properties(text)
    assert (found["User"], found["WorkingDirectory"]) == (("app",), ("/srv/app",))
    assert found.keys() == {"StatusText", "User", "WorkingDirectory"}
