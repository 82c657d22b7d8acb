"""What a command line of uWSGI, and the ini file that it names, serve.

uWSGI reads an ini file by itself, so that configparser would not do: keys may be repeated, and have no value; of two
sections only one counts; ``%(key)`` is the value of another key, and ``%d`` and others are parts of the file's path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from flask_socketact import files
from flask_socketact.cli.units.served import Served
from flask_socketact.errors import UnitError

#: Other names of the settings that are taken over.
_NAMES = {
    "s": "socket",
    "uwsgi-socket": "socket",
    "http": "http-socket",
    "w": "module",
    "wsgi": "module",
    "file": "wsgi-file",
    "p": "processes",
    "workers": "processes",
    "H": "virtualenv",
    "home": "virtualenv",
    "venv": "virtualenv",
    "pyhome": "virtualenv",
}
#: Settings of gunicorn that mean the same.
_OPTIONS = {"harakiri": "--timeout", "max-requests": "--max-requests", "max-requests-delta": "--max-requests-jitter"}
#: Settings whose work our units or gunicorn do, or that only uWSGI needs.
_DONE = re.compile(
    "master|vacuum|die-on-term|enable-threads|single-interpreter|need-app|lazy-apps|lazy|plugins?|pidfile2?|strict|M"
    "|thunder-lock|auto-procname|procname.*|no-orphans|close-on-exec|buffer-size|uwsgi|chmod-socket|C|show-config"
)
#: Settings that may have several values.
_LISTS = ("socket", "http-socket", "env")
#: How deep an ini file may include others, or a value another value.
_DEPTH = 5
Settings = list[tuple[str, str]]


def read(arguments: list[str], directory: str) -> Served:
    """Return what a command line of uWSGI serves.

    :param directory: where it is run
    :raises UnitError: a file cannot be read.
    """
    given = list(_typed(arguments, directory))
    last, several = dict(given), {key: [value for name, value in given if name == key] for key in _LISTS}
    folder = os.path.normpath(os.path.join(directory, last.pop("chdir", "")))
    served = Served(directory=folder, workers=1, threads=1)
    served.app = _app(last, folder)
    served.bind = [_bind(value, folder) for value in several["http-socket"] or several["socket"]]
    for value in several["socket"]:
        served.remarks.append(
            f"uWSGI's socket {value} spoke the protocol uwsgi, and now speaks HTTP: write proxy_pass in nginx in the "
            "place of uwsgi_pass; docs/nginx.md"
        )
    for key in ("processes", "threads"):
        if last.get(key, "").isdigit():
            setattr(served, "workers" if key == "processes" else key, int(last.pop(key)))
    if home := last.pop("virtualenv", ""):
        served.python = os.path.join(folder, home, "bin/python3")
    served.user, served.group = last.pop("uid", None), last.pop("gid", None)
    served.variables = [value for value in several["env"] if "=" in value]
    if re.fullmatch("0?[0-7]{3}", mode := last.get("chmod-socket", last.get("C", ""))):
        served.umask = 0o777 & ~int(mode, 8)
    served.others = [word for key, option in _OPTIONS.items() if key in last for word in (option, last.pop(key))]
    left = [name for name in last if name not in (*_LISTS, "ini") and not _DONE.fullmatch(name)]
    for name in left:
        what = f"{name} = {last[name]}" if last[name] else name
        served.remarks.append(f"{what} of uWSGI was not taken over: docs/migrate.md has a table")
    return served


def _typed(arguments: list[str], directory: str) -> Iterator[tuple[str, str]]:
    """Yield the settings of a command line, and of the files that it names."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            yield from _of_file(word, directory) if _is_ini(word) else ()
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        yield from _setting(name, value, directory)


def _setting(name: str, value: str, directory: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    yield _NAMES.get(name, name), value
    if name == "ini":
        yield from _of_file(value, directory, depth + 1)


def _is_ini(word: str) -> bool:
    return word.partition(":")[0].endswith(".ini")


def _of_file(name: str, directory: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the settings of an ini file, PATH or PATH:SECTION."""
    file, _, section = name.partition(":")
    path = os.path.join(directory, file)
    try:
        lines = files.read(path).split("\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UnitError(
            f"{path}, of uWSGI, cannot be read: {why}: add --app, --listen and what else it needs"
        ) from None
    if depth > _DEPTH:
        raise UnitError(f"{path}, of uWSGI, includes itself: add --app, --listen and what else it needs")
    pairs = list(_pairs(lines, section or "uwsgi", path))
    known = dict(pairs)
    for key, value in pairs:
        is_placeholder = any(f"%({key})" in other for _, other in pairs)
        if not is_placeholder or key in (*_NAMES, *_LISTS, "chdir", "virtualenv", "processes", "threads", "module"):
            yield from _setting(key, _expand(value, known), directory, depth)


def _pairs(lines: list[str], wanted: str, path: str) -> Iterator[tuple[str, str]]:
    folder, file = os.path.split(path)
    magic = {"d": f"{folder}/", "p": path, "s": file, "n": file.rpartition(".")[0], "c": os.path.basename(folder)}
    section = ""
    for line in (raw.strip(" \t\r") for raw in lines):
        if line.startswith("["):
            section = line[1:-1]
        elif line and line[0] not in ";#" and section == wanted:
            key, _, value = line.partition("=")
            yield key.rstrip(" \t\r"), re.sub("%([dpsnc])", lambda found: magic[found[1]], value.strip(" \t\r"))


def _expand(value: str, known: dict[str, str]) -> str:
    """Replace ``%(key)`` by the value of that key."""
    for _ in range(_DEPTH):
        value = re.sub(r"%\(([^)]+)\)", lambda found: known.get(found[1], found[0]), value)
    return value


def _app(last: dict[str, str], folder: str) -> str | None:
    """Return the application; None if it is not known."""
    name = last.pop("callable", "application")
    module, path = last.pop("module", ""), last.get("wsgi-file", "")
    if module:
        return module if ":" in module else f"{module}:{name}"
    relative = os.path.relpath(os.path.join(folder, path), folder)
    if not path.endswith(".py") or relative.startswith(".."):
        return None
    last.pop("wsgi-file")
    return f"{relative.removesuffix('.py').replace('/', '.')}:{name}"


def _bind(value: str, folder: str) -> str:
    """Return an address as gunicorn has it."""
    return value if ":" in value else f"unix:{os.path.join(folder, value)}"
