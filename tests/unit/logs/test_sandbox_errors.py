"""Lines about the sandbox: how many, and about which exceptions."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pytest

from flask_socketact.bridge import request_context
from flask_socketact.logs import sandbox_errors
from flask_socketact.logs.sandbox_errors import Explanations
from flask_socketact.systemd.sandbox import Refusal


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """A logger; and a sandbox that refuses every folder."""

    def refuse(error: OSError) -> Iterator[Refusal]:
        yield Refusal(
            f"made writing to {error.filename} fail", f"add ReadWritePaths={error.filename.rpartition('/')[0]}"
        )

    monkeypatch.setattr(sandbox_errors, "refusals", refuse)
    monkeypatch.setattr(request_context, "generation", "1.1")
    sandbox_errors._told[:] = bytes(len(sandbox_errors._told))
    caplog.set_level("WARNING")
    return logging.getLogger("sandbox")


def refused(path: str) -> OSError:
    return OSError(errno.EROFS, "Read-only file system", path)


def test_once_for_a_folder_and_generation(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation in ("1.1", "1.2"):
        monkeypatch.setattr(request_context, "generation", generation)
        for _worker in range(2):
            explanations = Explanations("app.service", log, user_manager=False)
            for path in ("/srv/a/1", "/srv/a/2", "/srv/b/1", "/srv/a/3"):
                explanations.explain(refused(path))
    text = (
        "The sandbox of app.service made writing to {}/1 fail: add ReadWritePaths={} with: systemctl edit app.service"
    )
    assert caplog.messages == [text.format(folder, folder) for folder in ("/srv/a", "/srv/b")] * 2


def test_the_number_of_lines_is_limited(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    explanations = Explanations("app.service", log, user_manager=True)
    for number in range(5000):
        explanations.explain(refused(f"/srv/{number}/file"))
    assert len(caplog.messages) == sandbox_errors._MOST_LINES + 1
    assert caplog.messages[0].endswith("with: systemctl --user edit app.service")
    assert "tells no more" in caplog.messages[-1]
    assert len(explanations._examined) <= sandbox_errors._MOST_ERRORS


def test_a_line_cannot_be_broken_nor_endless(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    Explanations("app.service", log, user_manager=False).explain(refused("/srv/a/\n\x1b[31m" + "x" * 10_000))
    assert "\n" not in caplog.messages[0]
    assert "\x1b" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 700


def test_exceptions_of_records() -> None:
    make = logging.getLogRecordFactory()
    error = refused("/srv/a/1")

    def errors(*arguments: object, exc_info: object = None) -> list[BaseException]:
        record = make("app", logging.ERROR, __file__, 1, "%s", arguments, exc_info)
        return list(sandbox_errors._errors_of(record))

    assert errors("text") == []
    assert errors(error) == [error]
    assert errors({"mapping": error}) == []
    assert errors("text", exc_info=(OSError, error, None)) == [error]
    try:
        raise error
    except OSError:
        assert errors("text") == [error]
