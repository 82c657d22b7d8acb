"""The status that a request is counted with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flask_socketact.workers.request_status import status_of


@pytest.mark.parametrize(
    ("status", "failure", "is_client_error", "counted"),
    [
        ("200 OK", None, False, "200 OK"),
        ("503 No", None, False, "503 No"),
        ("200 OK", ValueError(), False, None),  # it failed after start_response()
        (None, ValueError(), False, None),
        (None, StopIteration(), False, "101 Switching Protocols"),
        ("200 OK", StopIteration(), False, "200 OK"),
        ("200 OK", ConnectionResetError(), True, "200 OK"),
        (None, ConnectionResetError(), True, "400 Bad Request"),
        ("500 Oops", ConnectionResetError(), True, "400 Bad Request"),
    ],
)
def test_a_client_s_error_is_not_counted_as_the_application_s(
    status: str | None, failure: BaseException | None, is_client_error: bool, counted: str | None
) -> None:
    response = SimpleNamespace(status=status) if status else None
    assert status_of(response, failure, is_client_error=is_client_error) == counted
