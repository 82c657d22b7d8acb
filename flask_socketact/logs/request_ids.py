"""The current request's id in every record of logging, as ``%(request_id)s``, whichever handler formats it."""

from __future__ import annotations

import logging
from typing import Any

from flask_socketact.bridge import request_context

_NAME = "request_id"
#: Between requests, as in access logs.
_NONE = "-"


class _Attributes(dict[str, Any]):
    """The attributes of a record, in which ``extra={"request_id": ...}`` may replace the id.

    logging refuses an ``extra`` whose key is in ``record.__dict__``. An attribute of the class would not be in
    there, but formatters look nowhere else. So the id is there, and ``in`` alone does not see it.
    """

    def __contains__(self, name: object) -> bool:
        return name != _NAME and super().__contains__(name)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copy, and pickle, as a plain dict: the process that reads it may not have this package."""
        return dict, (dict(self),)


def install() -> None:
    """Add the attribute to all records from now on, on top of the record factory that is set.

    A record that has a ``request_id`` already, of another factory, keeps it. Once is enough for a process; again
    does no harm.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "adds_request_id", False):
        return

    def make_with_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if not hasattr(record, _NAME):
            record.__dict__ = _Attributes(vars(record), request_id=request_context.request_id() or _NONE)
        return record

    make_with_id.adds_request_id = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_with_id)
