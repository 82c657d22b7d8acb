"""The real gunicorn command, started as systemd starts it: listeners at descriptor 3 and up, and a notify socket."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import IO

GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
CONF = ("-c", "python:flask_socketact.conf")
DEADLINE = 20.0  #: seconds


class Server:
    """gunicorn, for the length of a ``with`` block; afterwards no process of it is left."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        listeners: Mapping[str, socket.socket | IO[bytes]] | None = None,
        environ: Mapping[str, str] | None = None,
        gunicorn: str = GUNICORN,
    ) -> None:
        """Prepare to run ``gunicorn ARGUMENTS`` in `folder`; `listeners` maps names to sockets.

        `environ` is added to the environment last, so it can spoil what activation sets.
        """
        self._folder = folder
        self._listeners = dict(listeners or {})
        self._log = folder / "log"
        self._notify_path = folder / "notify"
        self.messages: list[str] = []
        self._environ = self._plain_environment()
        if self._listeners:
            self._environ["LISTEN_FDS"] = str(len(self._listeners))
            self._environ["LISTEN_FDNAMES"] = ":".join(self._listeners)
        self._environ |= environ or {}
        # Far from where they are moved to, so that none is overwritten before its turn.
        self._sources = [fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 100) for listener in self._listeners.values()]
        self._command = self._launcher([gunicorn, *arguments])

    def __enter__(self) -> Server:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self._notify_path))
        self._notify.setblocking(False)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._sources,
                start_new_session=True,
            )
        for source in self._sources:
            os.close(source)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            self._notify.close()
            self._notify_path.unlink()
        if error is None:
            assert not self.processes(), f"workers outlived their master\n{self.log}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[int]:
        """Return the pids of the workers, and of what they have started."""
        loaders = self.loaders()
        return [pid for pid in self.processes() if pid not in loaders]

    def loaders(self) -> list[int]:
        """Return the pids of the loaders (``preload_app``) that run: the log tells of them."""
        told = re.findall(r"Loading the application for all workers \(pid: (\d+)\)", self.log)
        return [int(pid) for pid in told if int(pid) in self.processes()]

    def processes(self) -> list[int]:
        """Return the pids of the processes in the master's session, the master apart."""
        done = subprocess.run(
            ["ps", "-o", "pid=,stat=", "-s", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        lines = (line.split() for line in done.stdout.splitlines())
        return [int(pid) for pid, stat in lines if int(pid) != self.process.pid and not stat.startswith("Z")]

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}\n{self.messages}\n{self.log}"
            time.sleep(0.01)

    def wait_for_log(self, text: str) -> None:
        self.wait_for(lambda: text in self.log, f"{text!r} in the log")

    def wait_for_message(self, start: str) -> str:
        """Wait for the next notification that begins with `start`, and return it."""
        seen = len(self.messages)

        def arrived() -> bool:
            self._read_messages()
            return any(message.startswith(start) for message in self.messages[seen:])

        self.wait_for(arrived, f"{start} from the notify socket")
        return next(message for message in self.messages[seen:] if message.startswith(start))

    def wait_until_ready(self) -> Server:
        self.wait_for_message("READY=1")
        return self

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait_until_gone(self, seconds: float = DEADLINE) -> int:
        """Wait for the master to exit, and return its exit status. Read its messages meanwhile, as systemd does: the
        master counts as started only when the descriptor of BARRIER=1 was closed."""

        def is_gone() -> bool:
            self._read_messages()
            return self.process.poll() is not None

        self.wait_for(is_gone, "gunicorn to leave", seconds)
        self._read_messages()
        return self.process.returncode

    def _read_messages(self) -> None:
        while True:
            try:
                self.messages.append(self._notify.recv(4096).decode())
            except BlockingIOError:
                return

    def _plain_environment(self) -> dict[str, str]:
        """Return our environment without what a service manager or a user may have set."""
        ours = ("LISTEN_", "NOTIFY_SOCKET", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "PORT")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return environ | {"NOTIFY_SOCKET": str(self._notify_path), "PYTHONUNBUFFERED": "1"}

    def _launcher(self, command: Sequence[str]) -> list[str]:
        """Move the listeners to where systemd passes them; only a shell knows the pid beforehand."""
        if not self._listeners:
            return list(command)
        moves = " ".join(f"{target}<&{source}" for target, source in enumerate(self._sources, 3))
        return ["bash", "-c", f'exec {moves}; : "${{LISTEN_PID:=$$}}"; export LISTEN_PID; exec "$@"', "bash", *command]


def tcp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """Return a listener on a free port of the loopback."""
    listener = socket.socket(family)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen()
    return listener


def unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def dial(listener: socket.socket) -> socket.socket:
    """Connect to a listener."""
    client = socket.socket(listener.family)
    client.settimeout(DEADLINE)
    client.connect(listener.getsockname())
    return client
