"""What applications do to logging while they are imported, as source that ``app`` precedes."""

from __future__ import annotations

#: Each with its imports, for an application that has ``app``, and nothing logged yet.
CONFIGURATIONS = {
    "none": "",
    "dictConfig": "import logging.config\nlogging.config.dictConfig({'version': 1})\n",
    "fileConfig": '''
import io, logging.config
logging.config.fileConfig(io.StringIO("""
[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=
[logger_root]
level=WARNING
handlers=console
[handler_console]
class=StreamHandler
args=(sys.stderr,)
"""))
''',
    "dictConfig of gunicorn's": """
import logging.config
own = {"level": "DEBUG", "handlers": ["console"], "propagate": True}
logging.config.dictConfig({
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"gunicorn.error": own, "gunicorn.access": own},
    "root": {"handlers": ["console"]},
})
""",
    "handlers cleared": """
import logging
for name in ("gunicorn.error", "gunicorn.access"):
    logging.getLogger(name).handlers.clear()
""",
    "other levels": """
import logging
for name in ("gunicorn.error", "gunicorn.access"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger(name).propagate = True
""",
    "gunicorn's handlers": """
import logging
app.logger.handlers = logging.getLogger("gunicorn.error").handlers
app.logger.setLevel(logging.getLogger("gunicorn.error").level)
""",
    "a handler": "import logging\napp.logger.addHandler(logging.StreamHandler())\n",
    "gunicorn's handlers and one": """
import logging
app.logger.handlers = logging.getLogger("gunicorn.error").handlers
app.logger.addHandler(logging.StreamHandler())
""",
}
