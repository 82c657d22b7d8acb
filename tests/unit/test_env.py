"""The environment variables of this package."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_socketact import env
from flask_socketact.errors import SettingsError

TIMES = [(env.HEADER_TIMEOUT, env.header_timeout), (env.LOAD_TIMEOUT, env.load_timeout), (env.IDLE_EXIT, env.idle_exit)]


@pytest.mark.parametrize(("variable", "read"), TIMES)
@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("0.25", 0.25), ("1e3", 1000.0)])
def test_a_time_is_a_positive_number_of_seconds(
    monkeypatch: pytest.MonkeyPatch, variable: str, read: Callable[[], float | None], text: str, seconds: float
) -> None:
    monkeypatch.setenv(variable, text)
    assert read() == seconds


@pytest.mark.parametrize(("variable", "read"), TIMES)
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "5s", "five", " "])
def test_another_value_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, read: Callable[[], float | None], text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError, match=f"{variable}='{text}'"):
        read()


@pytest.mark.parametrize("is_empty", [True, False])
def test_without_a_value_a_default_counts(monkeypatch: pytest.MonkeyPatch, is_empty: bool) -> None:
    for variable, _ in TIMES:
        if is_empty:
            monkeypatch.setenv(variable, "")
        else:
            monkeypatch.delenv(variable, raising=False)
    assert (env.header_timeout(), env.load_timeout()) == (env.DEFAULT_HEADER_TIMEOUT, env.DEFAULT_LOAD_TIMEOUT)
    assert env.idle_exit() is None


@pytest.mark.parametrize(("value", "may_overlap"), [("no", False), ("yes", True), ("", True), ("NO", True)])
def test_generations_overlap_unless_the_variable_is_no(value: str, may_overlap: bool) -> None:
    assert env.may_overlap({env.OVERLAP: value}) is may_overlap
    assert env.may_overlap({})
