"""What systemctl prints, as data."""

from __future__ import annotations

import pytest

from flask_socketact.systemd.manager import parse_properties


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_status_of_the_service_makes_no_other_property(end: str) -> None:
    """The service chooses ``STATUS=``, which has no line feed, but may have what Python takes for the end of a line."""
    text = f"StatusText=well{end}User=root{end}WorkingDirectory=/bin\nUser=app\nWorkingDirectory=/srv/app\n"
    found = parse_properties(text)
    assert (found["User"], found["WorkingDirectory"]) == (("app",), ("/srv/app",))
    assert found.keys() == {"StatusText", "User", "WorkingDirectory"}
