"""The application's own configuration file, written for gunicorn alone: its settings override ours."""

from __future__ import annotations

from typing import Any

from flask_socketact.errors import SettingsError
from flask_socketact.master.failures import locate
from flask_socketact.text import describe

#: The classes that take the place of gunicorn's, which close connections in a restart.
WORKERS = {
    "sync": "flask_socketact.workers.sync.SyncWorker",
    "gthread": "flask_socketact.workers.thread.ThreadWorker",
    "gevent": "flask_socketact.workers.gevent.GeventWorker",
}
#: Settings that are the service manager's: of a service, the unit decides these.
MANAGERS = ("bind", "daemon", "pidfile", "user", "group")


def read(file: str) -> dict[str, Any]:
    """Return the settings in a configuration file of gunicorn, and what else it defines; without those of
    :data:`MANAGERS`, and with our worker class in the place of gunicorn's.

    :param file: in the current folder, or an absolute path
    :raises SettingsError: it cannot be read, or raises an exception.
    """
    found: dict[str, Any] = {"__name__": "gunicorn_conf", "__file__": file}
    try:
        with open(file, "rb") as source:
            exec(compile(source.read(), file, "exec"), found)  # noqa: S102 (gunicorn does the same with -c)
    except Exception as error:
        raise SettingsError(f"SOCKETACT_CONFIG={file} cannot be read: {locate(error)}: {describe(error)}") from error
    settings = {name: value for name, value in found.items() if not name.startswith("_") and name not in MANAGERS}
    if isinstance(settings.get("worker_class"), str):
        settings["worker_class"] = WORKERS.get(settings["worker_class"], settings["worker_class"])
    return settings
