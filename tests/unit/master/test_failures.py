"""What the journal says of a failure, and what ``systemctl status`` says of it to every local user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.errors import AppImportError

from flask_socketact.errors import SettingsError
from flask_socketact.master.failures import Failure, locate

PRIVATE = "postgres://app:hunter2@db"


def raised(function: Callable[[], Any]) -> Exception:
    """Return what `function` raises, without the lines of this file in its traceback."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 (of any type)
        passed = error.__traceback__
        while passed and passed.tb_frame.f_code.co_filename == __file__:
            passed = passed.tb_next
        return error.with_traceback(passed)
    raise AssertionError("nothing was raised")


def module(folder: Path, source: str, name: str = "app.py") -> Callable[[], None]:
    """Write an application, and return a function that imports it."""
    path = folder / name
    path.write_text(source)

    def run() -> None:
        exec(compile(source, str(path), "exec"), {"PRIVATE": PRIVATE})  # noqa: S102 (as an import does)

    return run


def test_a_failure_in_our_own_words_is_public() -> None:
    failure = Failure.known("no worker can be forked")
    assert (failure.text, failure.public) == ("no worker can be forked",) * 2


def test_the_message_of_an_application_s_error_is_for_the_journal_alone(tmp_path: Path) -> None:
    failure = Failure.of(raised(module(tmp_path, "\nraise KeyError(PRIVATE)")), "cannot start: ")
    assert failure.text.startswith("cannot start: KeyError")
    assert PRIVATE in failure.text
    assert failure.public == f"cannot start: KeyError at {tmp_path}/app.py:2"


@pytest.mark.parametrize("error", [SettingsError("workers = 0"), AppImportError("Failed to find 'app'")])
def test_the_message_of_an_error_of_ours_or_gunicorn_s_is_public(error: Exception) -> None:
    assert Failure.of(error, "no reload: ") == Failure(f"no reload: {error}", f"no reload: {error}")


def test_the_cause_of_an_error_of_ours_is_censored(tmp_path: Path) -> None:
    error = SettingsError("the configuration cannot be read")
    error.__cause__ = raised(module(tmp_path, "raise ValueError(PRIVATE)"))
    failure = Failure.of(error)
    assert failure.text == f"the configuration cannot be read: ValueError: {PRIVATE}"
    assert failure.public == f"the configuration cannot be read: ValueError at {tmp_path}/app.py:1"


def test_a_text_that_quotes_the_failure_is_censored() -> None:
    failure = Failure(f"KeyError: {PRIVATE}", "KeyError at app.py:3")
    assert (
        failure.censor(f"Worker failed to boot. KeyError: {PRIVATE}") == "Worker failed to boot. KeyError at app.py:3"
    )
    assert failure.censor("another text") == "another text"


def test_the_line_of_the_application_is_named_and_not_that_of_a_library(tmp_path: Path) -> None:
    error = raised(module(tmp_path, "import json\n\n\njson.loads('no')"))
    assert isinstance(error, json.JSONDecodeError)
    assert locate(error) == f"JSONDecodeError at {tmp_path}/app.py:4"


def test_the_line_is_that_of_the_cause_if_the_error_has_only_passed_libraries(tmp_path: Path) -> None:
    """An ORM that wraps the error of a driver raises its own far from the application."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    error = raised(module(packages, "raise RuntimeError"))
    error.__cause__ = raised(module(tmp_path, "1 / 0"))
    assert locate(error) == f"ZeroDivisionError at {tmp_path}/app.py:1"


def test_the_line_of_a_syntax_error_is_that_of_the_file_with_it(tmp_path: Path) -> None:
    assert locate(raised(module(tmp_path, "x = 1\ny = = 2"))) == f"SyntaxError at {tmp_path}/app.py:2"


def test_code_that_is_no_file_is_not_named() -> None:
    """Its name may be the code itself."""
    error = raised(lambda: exec(compile("1 / 0", PRIVATE, "exec")))  # noqa: S102
    assert PRIVATE not in locate(error)
    assert locate(KeyError(PRIVATE)) == "KeyError"
