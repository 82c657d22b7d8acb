"""Settings of ours, as environment variables: gunicorn takes no settings of others."""

from __future__ import annotations

import os

from flask_socketact.errors import SettingsError


def seconds(variable: str) -> float | None:
    """Return the positive number of seconds that `variable` has; None when it is not set, or empty.

    :raises SettingsError: it has something else.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"{variable}={text!r} is not a positive number of seconds: change it, or remove it")
    return value
