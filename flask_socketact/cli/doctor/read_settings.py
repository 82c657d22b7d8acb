"""Print gunicorn's settings, and the data in the application's folder, as JSON, without loading the application.

``flask-socketact doctor`` runs this text with the Python of a service, as the service's user. So it imports nothing of
this package. After an error, the last line on stderr has the reason, and the exit status is not 0.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

SETTINGS = ("graceful_timeout", "worker_connections", "workers", "threads")
#: Folders that applications write to, and how many entries of a folder are examined.
DATA = ("data", "db", "instance", "log", "logs", "media", "upload", "uploads")
MOST_ENTRIES = 1000
SQLITE = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html


def find_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing it or its parent packages."""
    parts = name.split(".")
    found = importlib.util.find_spec(parts[0])
    for end in range(2, len(parts) + 1):
        if found is None:
            break
        folders = found.submodule_search_locations or []
        found = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), folders)
    return found


def find_application(uri: str, cfg: Any) -> dict[str, Any]:
    """Return the file of the application (None for a namespace package), and whether it is readable."""
    if cfg.paste is not None:
        file: str | None = uri.partition("#")[0]
    else:
        for folder in filter(None, (cfg.pythonpath or "").split(",")):
            sys.path.insert(0, os.path.abspath(folder))
        found = find_module(uri.partition(":")[0])
        if found is None:
            return {"found": False}
        file = found.origin
    return {"found": True, "file": file, "readable": file is None or os.access(file, os.R_OK)}


def check_environment() -> None:
    """Exit with a message about what would make an import fail with a traceback."""
    workers = os.environ.get("WEB_CONCURRENCY", "1")
    try:
        int(workers)
    except ValueError:
        sys.exit(f"WEB_CONCURRENCY={workers!r} is not a number: gunicorn cannot start")
    for found, wanted in misfits():
        sys.exit(f"{found} is installed, but flask-socketact needs {wanted}")


def misfits() -> Iterator[tuple[str, str]]:
    """Yield the installed packages whose version is outside our requirements, and the requirement."""
    try:
        from packaging.requirements import Requirement  # gunicorn needs it

        texts = importlib.metadata.requires("flask-socketact") or []
    except ImportError:  # packaging is missing, or this package has no metadata
        return
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate():
            version = importlib.metadata.version(requirement.name)
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{requirement.name} {version}", str(requirement)


def find_data(folder: str) -> Iterator[str]:
    """Yield the names of SQLite databases in `folder`, and of folders for data with a slash, if this user may write
    them."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST_ENTRIES):
            if entry.is_symlink() or not os.access(entry.path, os.W_OK):
                continue
            if entry.is_dir() and entry.name in DATA:
                yield f"{entry.name}/"
            if entry.is_file() and is_database(entry.path):
                yield entry.name


def is_database(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


def main() -> None:
    request = json.loads(sys.argv[1])
    os.chdir(request["directory"])
    os.listdir(request["directory"])  # fail here if it is not readable: imports would fail without a reason
    if not os.access(request["program"], os.X_OK):
        sys.exit(f"{request['program']} does not exist or is not executable")
    sys.argv = request["argv"]
    sys.path[0] = request["path"]
    check_environment()
    from gunicorn.app.wsgiapp import WSGIApplication

    app = WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]")
    ours = "flask_socketact.master.arbiter" in sys.modules
    if ours and str(app.cfg.settings["worker_class"].get()).endswith("SyncWorker"):
        app.cfg.set("threads", 1)  # as our arbiter does
    settings = {name: getattr(app.cfg, name) for name in SETTINGS}
    worker = app.cfg.worker_class
    settings["worker_class"] = f"{worker.__module__}.{worker.__qualname__}"
    settings["our_worker"] = any(base.__module__.startswith("flask_socketact.") for base in worker.__mro__)
    settings["our_master"] = ours
    settings["app"] = app.app_uri
    settings.update(find_application(app.app_uri, app.cfg))
    settings["data"] = sorted(find_data(request["directory"]))
    print("\n" + json.dumps(settings))


if __name__ == "__main__":
    main()
