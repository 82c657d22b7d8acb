"""What gunicorn has found valid in responses: applications repeat their statuses and names of headers.

Values of headers are always looked at.
"""

from __future__ import annotations

import time

from gunicorn import util
from gunicorn.http.wsgi import HEADER_VALUE_RE

#: Most names and statuses that are remembered: an application can make up any.
_MAX = 512
CONTENT_LENGTH = "content-length"
_FIRST_FINAL = 200
#: Their responses have no body.
_WITHOUT_BODY = (204, 304)

#: Codes of final statuses whose responses have a body.
statuses: dict[str, int] = {}
#: Names of headers that are sent as they are, and whether it is Content-Length.
names: dict[str, bool] = {}
_date = (0, "")


def remember_status(status: str, code: int | None) -> None:
    """Remember a status that gunicorn has accepted. Subclasses of str may behave in any way, and are not remembered."""
    if (
        type(status) is str
        and code is not None
        and code >= _FIRST_FINAL
        and code not in _WITHOUT_BODY
        and len(statuses) < _MAX
    ):
        statuses[status] = code


def remember_name(name: str) -> None:
    """Remember a name that gunicorn has accepted, as above."""
    if type(name) is str and not util.is_hoppish(name) and len(names) < _MAX:
        names[name] = name.lower() == CONTENT_LENGTH


def is_value(value: object) -> bool:
    """Return whether `value` is valid as that of a header."""
    if type(value) is not str:
        return False
    return (value.isascii() and value.isprintable()) or HEADER_VALUE_RE.fullmatch(value) is not None


def http_date() -> str:
    """Return the value of the Date header."""
    global _date  # noqa: PLW0603 (a cache)
    now = int(time.time())
    then, text = _date
    if now != then:
        text = str(util.http_date(now))
        _date = now, text
    return text
