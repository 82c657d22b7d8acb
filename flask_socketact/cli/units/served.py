"""What a command line of gunicorn, ``flask run`` or uWSGI serves, and how."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from gunicorn.config import Config

from flask_socketact import files
from flask_socketact.errors import UnitError
from flask_socketact.master.own_config import MANAGERS, WORKERS

#: Settings of gunicorn that become options of ours, or parts of the units.
_TAKEN = {*MANAGERS, "workers", "threads", "graceful_timeout", "config", "chdir", "worker_class"}
#: Also Debian's uwsgi_python3 and uwsgi-core.
_UWSGI = re.compile(r"uwsgi([_-]\w+)?")
_SHELLS = ("sh", "bash", "dash")
#: Statements in which names are not those of the file.
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
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
    umask: int | None = None  #: of a Unix socket that gunicorn opens
    user: str | None = None  #: to which the command changes, if root runs it
    group: str | None = None
    variables: list[str] = field(default_factory=list)  #: of the environment that the command sets
    log_files: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  #: other options of gunicorn
    remarks: list[str] = field(default_factory=list)  #: what is served otherwise than before


def read(command: tuple[str, ...], environment: dict[str, str], directory: str) -> Served:
    """Return what a command of ``ExecStart=`` serves.

    :raises UnitError: it is none of these, or has options that its gunicorn does not know.
    """
    words = list(command)
    if os.path.basename(words[0]) in _SHELLS and words[1:2] == ["-c"]:
        words, directory = _unwrap(words[2:3], directory)
    programs = [os.path.basename(word) for word in words]
    if "gunicorn" in programs:
        where = programs.index("gunicorn")
        served = _gunicorn(words[where + 1 :], environment, directory)
    elif "flask" in programs and "run" in programs:
        where = programs.index("flask")
        served = _flask(words[where + 1 :], environment)
    elif found := [program for program in programs if _UWSGI.fullmatch(program)]:
        from flask_socketact.cli.units import uwsgi  # it needs Served

        where = programs.index(found[0])
        served = uwsgi.read(words[where + 1 :], directory)
        is_systems = os.path.dirname(words[where]) in ("", "/usr/bin", "/bin")
        served.python = served.python or (None if is_systems else _python(words, where))
        return served
    else:
        raise UnitError(
            f"ExecStart={' '.join(command)[:100]} is not gunicorn, flask run or uwsgi: add --app, --listen and "
            "what else it needs; docs/migrate.md has a table"
        )
    served.python = _python(words, where)
    return served


def _unwrap(line: list[str], directory: str) -> tuple[list[str], str]:
    """Return the words of the command that a shell runs, and the folder that it runs it in.

    :raises UnitError: the shell does more than that.
    """
    words = shlex.split("".join(line))
    if words[:1] == ["cd"] and words[2:3] == ["&&"]:
        directory, words = os.path.join(directory, words[1]), words[3:]
    if words[:1] == ["exec"]:
        words = words[1:]
    if any(word in ("&", "&&", "2>&1") or set(word) & set(";|<>`$") for word in words):
        raise UnitError(
            f"ExecStart= is a line for a shell, {' '.join(line)[:100]!r}: write the command without the shell, or add "
            "--app, --listen and what else it needs"
        )
    return words, directory


def _python(words: list[str], where: int) -> str | None:
    """Return the Python of a program: next to it, or the one that runs it as a module."""
    program = words[where]
    if where >= 2 and words[where - 1] == "-m":  # noqa: PLR2004 (a Python, and -m)
        return words[where - 2]
    return f"{os.path.dirname(program)}/python3" if program.startswith("/") else None


def _gunicorn(arguments: list[str], environment: dict[str, str], directory: str) -> Served:
    typed = shlex.split(environment.get("GUNICORN_CMD_ARGS", "")) + arguments
    if variable := next((word for word in typed if word.startswith("$")), None):
        raise UnitError(f"ExecStart= has the variable {variable}: write its value, or add --app, --listen and the like")
    config = Config()
    try:
        given = vars(_Parser.of(config).parse_args(typed))
    except ValueError as error:
        raise UnitError(f"gunicorn's options cannot be read: {error}") from None
    positional = given.pop("args")
    explicit = {name: value for name, value in given.items() if value is not None}
    folder = os.path.normpath(os.path.join(directory, explicit.get("chdir", "")))
    served = Served(directory=folder, config=_config_file(explicit.get("config"), folder))
    in_file = _assigned(os.path.join(folder, served.config)) if served.config else {}
    app = positional[0] if positional else in_file.get("wsgi_app")
    served.app = app if app is None or ":" in app else f"{app}:application"  # gunicorn's default
    served.bind = _addresses(explicit, in_file, environment, folder)
    drain = explicit.get("graceful_timeout", in_file.get("graceful_timeout"))
    served.drain = drain if isinstance(drain, int) else None
    umask = explicit.get("umask", in_file.get("umask", 0))
    served.umask = umask if isinstance(umask, int) else None
    logs = [explicit.get(name, in_file.get(name)) for name in ("accesslog", "errorlog")]
    served.log_files = [os.path.join(folder, log) for log in logs if isinstance(log, str) and log != "-"]
    served.workers = explicit.get("workers")
    if served.workers is None and "workers" not in in_file and "WEB_CONCURRENCY" not in environment:
        served.workers = 1
        served.remarks.append("gunicorn had one worker, and so has this: more with --workers")
    served.others = [*_words(config, explicit), *_worker(served, explicit, in_file)]
    return served


def _addresses(
    explicit: dict[str, Any], in_file: dict[str, Any], environment: dict[str, str], folder: str
) -> list[str]:
    """Return what gunicorn binds; empty if the configuration file computes it, which only gunicorn can read."""
    given = explicit.get("bind", in_file.get("bind"))
    if given is None and "bind" not in in_file:
        given = f"0.0.0.0:{environment['PORT']}" if environment.get("PORT") else _ADDRESS
    found = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
    addresses = [address.strip() for each in found for address in str(each).split(",") if address.strip()]
    return [_within(address, folder) for address in addresses]


def _within(address: str, folder: str) -> str:
    """Return a socket's path as an absolute one: gunicorn's is relative to the working directory."""
    if not address.startswith("unix:") or address.startswith("unix:/"):
        return address
    return f"unix:{os.path.join(folder, address.removeprefix('unix:'))}"


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
        given = given.removeprefix("python:").replace(".", "/") + ".py"
    path = os.path.normpath(os.path.join(folder, given.removeprefix("file:")))
    return os.path.relpath(path, folder) if path.startswith(f"{folder}/") else path


def _assigned(path: str) -> dict[str, Any]:
    """Return the names that a configuration file assigns, with their values where it has literals, and else None."""
    try:
        body = ast.parse(files.read(path)).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    assigned = [(each.targets, each.value) for each in body if isinstance(each, ast.Assign)]
    assigned += [([each.target], each.value) for each in body if isinstance(each, ast.AnnAssign) and each.value]
    # Within conditions and loops, too: then the value is not known.
    below = [each for top in body if not isinstance(top, _SCOPES) for each in ast.walk(top)]
    found: dict[str, Any] = {
        each.id: None for each in below if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
    for targets, value in assigned:
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            literal = None
        found |= {target.id: literal for target in targets if isinstance(target, ast.Name)}
    return found


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
