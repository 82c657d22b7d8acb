"""A service that runs in a link to the current release, and good and bad releases of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.support.http import ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, install

CLI = "/srv/app/venv/bin/flask-socketact"
CLIENTS = {"new connection": 4, "keep-alive": 4, "keep-alive, mostly idle": 2, "streamed response": 1, "slow upload": 1}
GOOD = (EXAMPLES / "app.py").read_text()
#: What bad releases add to the example.
BAD = {
    "raises": "raise RuntimeError('no database')\n",
    "answers-500": "@app.before_request\ndef fail():\n    if request.path != '/readyz': return 'bad release', 500\n",
    "not-ready": "@socketact.check('database')\ndef database():\n    raise ConnectionError('no database')\n",
    "hangs": "time.sleep(3600)\n",
}


@contextmanager
def booted(tree: str) -> Iterator[Machine]:
    """Boot a machine whose service runs in a link to the current release, the good one."""
    with Machine(tree) as machine:
        install(machine, "app")
        add_release(machine, "good", GOOD)
        for name, source in BAD.items():
            add_release(machine, name, GOOD + source)
        machine.run("ln", "-s", "releases/good", "/srv/app/current")
        where = ("--directory", "/srv/app/current", "--python", "/srv/app/venv/bin/python3")
        machine.run(CLI, "units", "--install", *where, "--threads", "8")
        yield machine


def add_release(machine: Machine, name: str, source: str) -> None:
    folder = machine.path(f"/srv/app/releases/{name}")
    folder.mkdir(parents=True)
    text = source.replace('return f"Hello', f'return f"Release {name}: Hello')
    (folder / "app.py").write_text(text)


def current(machine: Machine) -> str:
    return str(Path(machine.path("/srv/app/current")).readlink())


def serving(machine: Machine) -> str:
    """Return the release that serves."""
    return ask(partial(machine.connect, ("127.0.0.1", 8000)))[1].decode().partition(":")[0]


def put_back(machine: Machine) -> bool:
    """Whether the good release is in place again, and serves."""
    return (current(machine), serving(machine)) == ("releases/good", "Release good")


def load(machine: Machine) -> Load:
    return Load(partial(machine.connect, ("127.0.0.1", 8000)), CLIENTS)
