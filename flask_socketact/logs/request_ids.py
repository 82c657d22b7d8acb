"""The current request's ID in every log record, for any formatter: ``%(request_id)s``."""

from __future__ import annotations

import logging
from typing import Any

from flask_socketact.bridge import request_context

_NAME = "request_id"
#: Value between requests, as in access logs.
_NONE = "-"


class _Attributes(dict[str, Any]):
    """The attributes of a record. ``extra={"request_id": ...}`` can replace the ID.

    logging rejects an ``extra`` whose key is in ``record.__dict__``, and formatters look only there. So the ID is a
    key, and only ``in`` does not see it.
    """

    def __contains__(self, name: object) -> bool:
        return name != _NAME and super().__contains__(name)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copy and pickle as a plain dict: the process that unpickles it may not have this package."""
        return dict, (dict(self),)


def install() -> None:
    """Wrap the current record factory, so that all records have the attribute from now on.

    A record that already has a ``request_id``, from another factory, keeps it. Further calls do nothing.
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
