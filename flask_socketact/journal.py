"""Native logging to the journal: public names for settings.

For gunicorn: ``logger_class = "flask_socketact.journal.Logger"``. For ``dictConfig`` of an application:
``flask_socketact.journal.Handler``.
"""

from __future__ import annotations

from flask_socketact.logs.handler import Handler
from flask_socketact.logs.logger import Logger

__all__ = ["Handler", "Logger"]
