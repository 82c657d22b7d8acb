"""The current request's id in every record of logging, as ``%(request_id)s``, whichever handler formats it."""

from __future__ import annotations

import logging
from typing import Any

from flask_socketact import current

#: Between requests, as in access logs.
_NONE = "-"


def install() -> None:
    """Add the attribute to all records from now on, beside what others add. Once is enough for a process."""
    make = logging.getLogRecordFactory()
    if getattr(make, "adds_request_id", False):
        return

    def make_with_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.request_id = current.request_id() or _NONE
        return record

    make_with_id.adds_request_id = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_with_id)
