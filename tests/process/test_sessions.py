"""docs/sessions.md: the signing key changes under load, and no client is logged out."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from typing import TYPE_CHECKING, TypeAlias

import pytest
from flask import Flask, session

from tests.support import server
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Keys: TypeAlias = "Mapping[str, str | list[str]]"

CLIENTS = 4
PAUSE = 0.02
#: Requests that clients send between two steps.
BETWEEN = 40
SOURCE = """
import json
from pathlib import Path
from flask import Flask, session
from flask_socketact import SocketAct

app = Flask(__name__)
app.config.update(json.loads(Path("keys.json").read_text()))
SocketAct(app)

@app.get("/login")
def login():
    session["visits"] = 0
    return "welcome"

@app.get("/")
def page():
    if "visits" not in session:
        return "who are you?", 401
    session["visits"] += 1  # so that each response signs the cookie again
    return "hello"
"""


class Machine:
    """A service that reads its keys from a file."""

    def __init__(self, folder: Path, stack: ExitStack, keys: Keys) -> None:
        folder.mkdir()
        (folder / "app.py").write_text(SOURCE)
        self._keys = folder / "keys.json"
        self._keys.write_text(json.dumps(keys))
        listener = stack.enter_context(server.tcp())
        self.connect: Callable[[], socket.socket] = partial(dial, listener)
        arguments = (*CONF, "-w", "1", "app:app")
        self._server = stack.enter_context(Server(folder, *arguments, listeners={"http": listener}))
        self._server.wait_until_ready()

    def deploy(self, keys: Keys) -> None:
        self._keys.write_text(json.dumps(keys))
        done = self._server.log.count("Reloaded")
        self._server.signal(signal.SIGHUP)
        self._server.wait_for(lambda: self._server.log.count("Reloaded") > done, "the reload")


class Visitor:
    """A client that logs in once, and sends each request to the other machine."""

    def __init__(self, machines: list[Machine]) -> None:
        self._machines = machines
        self._cookie = ""
        self.statuses: list[int] = []
        self.visit("/login")

    def visit(self, path: str = "/") -> None:
        machine = self._machines[len(self.statuses) % len(self._machines)]
        connection = HTTPConnection("app")
        connection.sock = machine.connect()
        connection.request("GET", path, headers={"Cookie": self._cookie})
        response = connection.getresponse()
        response.read()
        connection.close()
        self._cookie = (response.headers["Set-Cookie"] or self._cookie).partition(";")[0]
        self.statuses.append(response.status)


@contextmanager
def visiting(machines: list[Machine]) -> Iterator[list[Visitor]]:
    visitors = [Visitor(machines) for _ in range(CLIENTS)]
    done = threading.Event()

    def visit(visitor: Visitor) -> None:
        while not done.wait(PAUSE):
            visitor.visit()

    threads = [threading.Thread(target=visit, args=(visitor,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    yield visitors
    done.set()
    for thread in threads:
        thread.join()


def wait_for_requests(visitors: list[Visitor]) -> None:
    wanted = sum(len(visitor.statuses) for visitor in visitors) + BETWEEN
    deadline = time.monotonic() + 20
    while sum(len(visitor.statuses) for visitor in visitors) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


OLD: Keys = {"SECRET_KEY": "old"}
STEPS: tuple[Keys, ...] = (
    {"SECRET_KEY": "old", "SECRET_KEY_FALLBACKS": ["new"]},
    {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old"]},
    {"SECRET_KEY": "new"},
)


@pytest.mark.skipif("SECRET_KEY_FALLBACKS" not in Flask.default_config, reason="Flask is older than 3.1")
def test_key_changes_in_three_deploys_or_one(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """In three, no client is logged out; with the second alone, clients are."""
    with ExitStack() as stack:
        machines = [Machine(tmp_path / name, stack, OLD) for name in ("one", "two")]
        with visiting(machines) as visitors:
            for keys in STEPS:
                for machine in machines:
                    wait_for_requests(visitors)
                    machine.deploy(keys)
            wait_for_requests(visitors)
        statuses = [status for visitor in visitors for status in visitor.statuses]
        assert set(statuses) == {200}
        figure(f"{len(statuses)} requests in three deploys, no client was logged out")
        with visiting(machines) as visitors:
            machines[0].deploy({"SECRET_KEY": "newest", "SECRET_KEY_FALLBACKS": ["new"]})
            wait_for_requests(visitors)
        assert 401 in {status for visitor in visitors for status in visitor.statuses}


def release(read: Callable[[], object]) -> Flask:
    app = Flask(__name__)
    app.secret_key = "the same in all releases"  # noqa: S105 (of a test)
    app.add_url_rule("/", view_func=lambda: str(read()))
    return app


def list_cart() -> object:
    return session.setdefault("cart", ["tea"])[0]


def dict_cart() -> object:
    return session.setdefault("cart", {"tea": 1})["tea"]


def either_cart() -> object:
    cart = session.setdefault("cart", ["tea"])
    return cart[0] if isinstance(cart, list) else next(iter(cart))


@pytest.mark.parametrize(("old", "status"), [(list_cart, 500), (either_cart, 200)])
def test_old_release_reads_what_the_new_one_wrote(old: Callable[[], object], status: int) -> None:
    wrote = release(dict_cart).test_client().get("/")
    cookie = wrote.headers["Set-Cookie"].partition(";")[0]
    assert release(old).test_client(use_cookies=False).get("/", headers={"Cookie": cookie}).status_code == status
