"""Tells what gunicorn would read as its settings, without loading the application.

``flask-socketact doctor`` gives this text to the Python of a service, as the service's user. So it needs nothing
of this package, and prints JSON. What goes wrong is the last line on stderr, with another exit status than 0.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

SETTINGS = ("graceful_timeout", "worker_connections", "workers", "threads")


def find_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing it, nor the packages that it is in."""
    parts = name.split(".")
    found = importlib.util.find_spec(parts[0])
    for end in range(2, len(parts) + 1):
        if found is None:
            break
        folders = found.submodule_search_locations or []
        found = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), folders)
    return found


def find_application(uri: str, cfg: Any) -> dict[str, Any]:
    """Tell which file has the application (none: a namespace package), and whether it may be read."""
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
    """See what would end gunicorn's import, or ours, in a traceback."""
    workers = os.environ.get("WEB_CONCURRENCY", "1")
    try:
        int(workers)
    except ValueError:
        sys.exit(f"WEB_CONCURRENCY={workers!r} is not a number: gunicorn cannot start")
    for found, wanted in misfits():
        sys.exit(f"{found} is installed, and flask-socketact needs {wanted}")


def misfits() -> Iterator[tuple[str, str]]:
    """Yield what is installed of the packages that we need in a version that we do not know."""
    try:
        from packaging.requirements import Requirement  # gunicorn needs it

        texts = importlib.metadata.requires("flask-socketact") or []
    except ImportError:  # of packaging, or there is no such distribution
        return
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate():
            version = importlib.metadata.version(requirement.name)
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{requirement.name} {version}", str(requirement)


def main() -> None:
    request = json.loads(sys.argv[1])
    os.chdir(request["directory"])
    os.listdir(request["directory"])  # or nothing in it would be found, without a word why
    if not os.access(request["program"], os.X_OK):
        sys.exit(f"{request['program']} is not there, or may not be run")
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
    print("\n" + json.dumps(settings))


if __name__ == "__main__":
    main()
