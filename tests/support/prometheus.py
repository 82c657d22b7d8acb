"""The real Prometheus, on a free port of the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_socketact.errors import RequestError
from tests.support.http import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

#: Unpacked by script/setup.
PROMETHEUS = Path(__file__).parents[2] / ".prometheus/usr/bin/prometheus"
DEADLINE = 20.0  #: seconds


class Prometheus:
    """Prometheus with the given configuration, for the length of a ``with`` block."""

    def __init__(self, folder: Path, config: str, rules: str = "") -> None:
        """Prepare to run it in `folder`; `config` may refer to `rules` as ``rules.yml``."""
        folder.mkdir()
        (folder / "prometheus.yml").write_text(config)
        (folder / "rules.yml").write_text(rules)
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()
        self.url = "http://{}:{}".format(*address)
        self._connect = partial(socket.create_connection, address, DEADLINE)
        self._command = [
            str(PROMETHEUS),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address[0]}:{address[1]}",
        ]

    def __enter__(self) -> Prometheus:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.wait_for(self._is_ready, "Prometheus to be ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression at this moment."""
        status, content = ask(self._connect, f"/api/v1/query?query={urllib.parse.quote(expression)}")
        assert status == 200, content
        found: list[dict[str, Any]] = json.loads(content)["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with one sample; None if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            log = (self._folder / "log").read_text()
            assert self._process.poll() is None, log
            assert time.monotonic() < deadline, f"waited {DEADLINE} s for {what}\n{log}"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return ask(self._connect, "/-/ready")[0] == 200
        except RequestError:
            return False
