"""Logs that go to the journal natively, by the names that settings have for them.

gunicorn has ``logger_class = "flask_socketact.journal.Logger"``, an application ``flask_socketact.journal.Handler``.
"""

from __future__ import annotations

from flask_socketact.logs.handler import Handler
from flask_socketact.logs.logger import Logger

__all__ = ["Handler", "Logger"]
