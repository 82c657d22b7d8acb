"""What a command line of gunicorn or ``flask run`` serves, and how."""

from __future__ import annotations

import argparse
import ast
import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from gunicorn.config import Config

from flask_socketact import files
from flask_socketact.errors import UnitError
from flask_socketact.master.own_config import MANAGERS, WORKERS

#: Settings of gunicorn that become options of ours, or parts of the units.
_TAKEN = {*MANAGERS, "workers", "threads", "graceful_timeout", "config", "chdir", "worker_class"}
_SHELLS = ("sh", "bash", "dash")
#: gunicorn's own default file, and address.
_FILE, _ADDRESS = "gunicorn.conf.py", "127.0.0.1:8000"


@dataclass
class Served:
    """What a command serves; None: it does not say."""

    app: str | None = None
    python: str | None = None
    bind: list[str] = field(default_factory=list)
    config: str | None = None
    workers: int | None = None
    threads: int | None = None
    drain: int | None = None
    directory: str | None = None
    others: list[str] = field(default_factory=list)  #: other options of gunicorn
    remarks: list[str] = field(default_factory=list)  #: what is served otherwise than before


def read(command: tuple[str, ...], environment: dict[str, str], directory: str) -> Served:
    """Return what a command of ``ExecStart=`` serves.

    :raises UnitError: it is neither gunicorn nor ``flask run``, or has options that its gunicorn does not know.
    """
    words = list(command)
    if os.path.basename(words[0]) in _SHELLS and words[1:2] == ["-c"]:
        words = shlex.split(words[2]) if len(words) > 2 else []  # noqa: PLR2004 (sh, -c, and the line)
    programs = [os.path.basename(word) for word in words]
    if "gunicorn" in programs:
        where = programs.index("gunicorn")
        served = _gunicorn(words[where + 1 :], environment, directory)
    elif "flask" in programs and "run" in programs:
        where = programs.index("flask")
        served = _flask(words[where + 1 :], environment)
    else:
        raise UnitError(
            f"ExecStart={' '.join(command)[:100]} is neither gunicorn nor flask run: add --app, --listen and what "
            "else it needs; docs/migrate.md has a table"
        )
    served.python = _python(words, where)
    return served


def _python(words: list[str], where: int) -> str | None:
    """Return the Python of a program: next to it, or the one that runs it as a module."""
    program = words[where]
    if where >= 2 and words[where - 1] == "-m":  # noqa: PLR2004 (a Python, and -m)
        return words[where - 2]
    return f"{os.path.dirname(program)}/python3" if program.startswith("/") else None


def _gunicorn(arguments: list[str], environment: dict[str, str], directory: str) -> Served:
    typed = shlex.split(environment.get("GUNICORN_CMD_ARGS", "")) + arguments
    config = Config()
    try:
        given = vars(_Parser.of(config).parse_args(typed))
    except ValueError as error:
        raise UnitError(f"gunicorn's options cannot be read: {error}") from None
    positional = given.pop("args")
    explicit = {name: value for name, value in given.items() if value is not None}
    folder = explicit.get("chdir", directory)
    served = Served(directory=explicit.get("chdir"), config=_config_file(explicit.get("config"), folder))
    in_file = _assigned(os.path.join(folder, served.config)) if served.config else {}
    served.app = positional[0] if positional else in_file.get("wsgi_app")
    served.bind = [*_strings(explicit.get("bind")), *(() if explicit.get("bind") else _strings(in_file.get("bind")))]
    if not served.bind:
        served.bind = [f"0.0.0.0:{environment['PORT']}"] if environment.get("PORT") else [_ADDRESS]
    served.drain = explicit.get("graceful_timeout")
    served.workers = explicit.get("workers")
    if served.workers is None and "workers" not in in_file and "WEB_CONCURRENCY" not in environment:
        served.workers = 1
        served.remarks.append("gunicorn had one worker, and so has this: more with --workers")
    served.others = [*_words(config, explicit), *_worker(served, explicit, in_file)]
    return served


def _worker(served: Served, explicit: dict[str, Any], in_file: dict[str, Any]) -> list[str]:
    """Decide on threads, and return options for the worker class."""
    served.threads = explicit.get("threads")
    name = str(explicit.get("worker_class", in_file.get("worker_class", "sync")))
    if name == "sync" and served.threads is None and "threads" not in in_file:
        served.threads = 1
        served.remarks.append(
            "gunicorn's worker served one request at a time, and so does this: more with --threads, if the application "
            "is thread-safe"
        )
    if name in ("sync", "gthread"):
        return []
    if name not in WORKERS:
        served.remarks.append(f"worker_class = {name} was not taken over: threads serve now; see docs/workers.md")
        return []
    return ["--worker-class", WORKERS[name]] if "worker_class" in explicit else []


def _config_file(given: str | None, folder: str) -> str | None:
    """Return the configuration file, without the prefix of gunicorn; None if there is none."""
    if given is None:
        return _FILE if os.path.isfile(os.path.join(folder, _FILE)) else None
    if given.startswith("python:"):
        return None
    path = os.path.normpath(given.removeprefix("file:"))
    return os.path.relpath(path, folder) if path.startswith(f"{folder}/") else path


def _assigned(path: str) -> dict[str, Any]:
    """Return the names that a configuration file assigns, with their values where it has literals."""
    try:
        statements = ast.walk(ast.parse(files.read(path)))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for each in statements:
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
            try:
                found[each.targets[0].id] = ast.literal_eval(each.value)
            except ValueError:
                found[each.targets[0].id] = None
    return found


def _strings(value: Any) -> list[str]:
    """Return the addresses in ``bind``: one string, with commas perhaps, or a list."""
    if isinstance(value, str):
        return [address.strip() for address in value.split(",") if address.strip()]
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def _words(config: Config, explicit: dict[str, Any]) -> list[str]:
    """Return the options for the settings that have no option of ours."""
    words = []
    for name, value in explicit.items():
        if name in _TAKEN:
            continue
        option = config.settings[name].cli[-1]
        for each in value if isinstance(value, list) else [value]:
            words.extend([option] if each is True else [] if each is False else [option, str(each)])
    return words


def _flask(arguments: list[str], environment: dict[str, str]) -> Served:
    parser = _Parser(add_help=False)
    parser.add_argument("-A", "--app", default=environment.get("FLASK_APP", "app"))
    parser.add_argument("-h", "--host", default=environment.get("FLASK_RUN_HOST", "127.0.0.1"))
    parser.add_argument("-p", "--port", default=environment.get("FLASK_RUN_PORT", "5000"))
    given = parser.parse_known_args(arguments)[0]
    module, _, name = given.app.removesuffix(".py").replace("/", ".").partition(":")
    return Served(
        app=f"{module}:{name or 'app'}",
        bind=[f"{given.host}:{given.port}"],
        remarks=["flask run is for development: gunicorn serves the application from now on"],
    )


class _Parser(argparse.ArgumentParser):
    """A parser that raises an error instead of exiting."""

    @classmethod
    def of(cls, config: Config) -> _Parser:
        """Return the parser of gunicorn's options."""
        parser = cls(add_help=False)
        parser.add_argument("args", nargs="*")
        for name in sorted(config.settings, key=str):
            config.settings[name].add_option(parser)
        return parser

    def error(self, message: str) -> Any:
        raise ValueError(message)
