"""What is remembered of an application's statuses and names of headers."""

from __future__ import annotations

import pytest

from flask_socketact.http import validated


class Text(str):
    """A string that says of itself what it likes."""

    __slots__ = ()

    def lower(self) -> str:
        return "content-length"


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validated, "names", {})
    monkeypatch.setattr(validated, "statuses", {})


def test_names() -> None:
    for name in ("X-A", "Content-LENGTH", "Connection"):
        validated.remember_name(name)
    assert validated.names == {"X-A": False, "Content-LENGTH": True}


def test_what_is_no_plain_string_changes_nothing_for_others() -> None:
    validated.remember_name(Text("X-A"))
    validated.remember_status(Text("200 OK"), 200)
    assert (validated.names, validated.statuses) == ({}, {})


def test_statuses() -> None:
    for status, code in (("200 OK", 200), ("204 No Content", 204), ("304 Not Modified", 304), ("100 Continue", 100)):
        validated.remember_status(status, code)
    assert validated.statuses == {"200 OK": 200}
