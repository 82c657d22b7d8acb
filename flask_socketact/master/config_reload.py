"""gunicorn's configuration, read again for a reload."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from types import ModuleType

from gunicorn.app.base import BaseApplication
from gunicorn.config import Config

from flask_socketact.errors import ReloadError

_CONF = "flask_socketact.conf"
#: Packages that are never imported again; nor are those with compiled modules, which cannot be loaded twice.
_SERVER = ("__main__", "gunicorn", "flask_socketact", "systemd")
_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)


def read_again(app: BaseApplication) -> None:
    """Set ``app.cfg`` to what command line, environment and configuration file say now.

    :raises ReloadError: the configuration cannot be read; ``app.cfg`` is unchanged.
    """
    before = app.cfg
    try:
        app.reload()
    except SystemExit as error:  # gunicorn prints a traceback, and exits
        app.cfg = before
        raise ReloadError("the configuration cannot be read") from error.__context__


def leave_environment(cfg: Config) -> None:
    """Undo what ``raw_env`` of `cfg` has set in the environment."""
    for name in cfg.env:
        if name in cfg.env_orig:
            os.environ[name] = cfg.env_orig[name]
        else:
            os.environ.pop(name, None)


def forget_modules(cfg: Config) -> dict[str, ModuleType]:
    """Remove from ``sys.modules`` the application's modules that the configuration has imported: otherwise new workers
    would be forked with the old ones. Return the removed modules."""
    importlib.invalidate_caches()  # a release's folder may have the modification time of the one that it replaces
    named = str(cfg.config or "").removeprefix("python:")
    compiled = {name.partition(".")[0] for name, module in sys.modules.items() if _file(module).endswith(_EXTENSIONS)}
    kept = compiled.union(_SERVER)
    forgotten = {
        name: module
        for name, module in sys.modules.items()
        if name in (_CONF, named) or (name.partition(".")[0] not in kept and _is_applications(module, cfg))
    }
    for name in forgotten:
        del sys.modules[name]
    return forgotten


def _is_applications(module: ModuleType, cfg: Config) -> bool:
    """Whether a module is in the application's folder, and not in an environment of libraries below it."""
    path = _file(module)
    folders = [os.path.abspath(folder) for folder in (cfg.chdir, *(cfg.pythonpath or "").split(","))]
    return any(_is_below(path, folder) for folder in folders if folder != "/") and not any(
        _is_below(path, prefix) for prefix in (sys.prefix, sys.base_prefix)
    )


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")
