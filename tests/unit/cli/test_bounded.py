"""The service's user can make commands that root runs fail with one line, but not hang or use much memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flask_socketact import files
from flask_socketact.cli import bounded
from flask_socketact.cli.deploy import service
from flask_socketact.cli.rehearse import report
from flask_socketact.linux import proc


def test_files_that_are_not_regular_or_too_long(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_text("x" * (files.LIMIT + 1))
    (tmp_path / "good").write_text("A=ä\n")
    assert files.read(tmp_path / "good") == "A=ä\n"
    for name, words in (("fifo", "not a regular file"), ("long", "larger than"), ("none", "No such file")):
        with pytest.raises(OSError, match=words):
            files.read(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        files.read("/dev/zero")


def python(program: str, seconds: float = 20.0) -> subprocess.CompletedProcess[str]:
    return bounded.run([sys.executable, "-c", program], seconds=seconds)


def test_programs_that_print_or_run_forever() -> None:
    done = python("import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)")
    assert (done.stdout, done.stderr, done.returncode) == ("a\n", "b\n", 3)
    for stream in ("stdout", "stderr"):
        with pytest.raises(OSError, match="prints more than"):
            python(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)")
    with pytest.raises(subprocess.TimeoutExpired):
        python("import time; time.sleep(60)", 0.5)
    with pytest.raises(subprocess.TimeoutExpired):
        python("import os, time; os.close(1); os.close(2); time.sleep(60)", 0.5)


def test_the_beginning_of_the_output_is_kept() -> None:
    command = [sys.executable, "-c", "while True: print('x' * 1023)"]
    assert bounded.head(command, seconds=20.0) == ("x" * 1023 + "\n") * (bounded.LIMIT // 1024)
    assert bounded.head([sys.executable, "-c", "print('a')"], seconds=20.0) == "a\n"
    with pytest.raises(subprocess.TimeoutExpired):
        bounded.head([sys.executable, "-c", "import time; time.sleep(60)"], seconds=0.5)


def test_a_link_at_the_path_of_the_report_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    for name in ("report.html.new", ".report.html", "report.html"):
        (tmp_path / name).symlink_to(precious)
    files.write(tmp_path / "report.html", report.render([]))
    assert precious.read_text() == "as it was"
    assert "<html" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "report.html").is_symlink()


def test_control_characters_in_the_name_of_a_process() -> None:
    own = Path("/proc/self/comm")
    before = own.read_text()
    try:
        own.write_bytes(b"\x1b[31m\n\xff )")
        assert proc.name_of(os.getpid()) == "?[31m?\ufffd )"
    finally:
        own.write_text(before)
    assert proc.name_of(2**31 - 1) == "?"


def test_a_service_that_sends_100_continue_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REQUEST_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client, contextlib.suppress(OSError):
                while True:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.01)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        assert service._request(f"127.0.0.1:{listener.getsockname()[1]}", "/").status is None
        assert time.monotonic() - began < 10
        thread.join()


@pytest.mark.parametrize("line", [b"\x1b]0;owned\x07" + b"x" * 60_000, b"HTTP/1.1 500 " + b"x" * 60_000])
def test_an_endless_status_line(line: bytes) -> None:
    """The message is one short line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):  # without TLS, and with
                with listener.accept()[0] as client, contextlib.suppress(OSError):
                    client.sendall(line + b"\r\n\r\n")
                    client.recv(65536)
                if line.startswith(b"HTTP"):
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        answer = service._request(f"127.0.0.1:{listener.getsockname()[1]}", "/")
        assert answer.status == (500 if line.startswith(b"HTTP") else None)
        assert len(answer.text) < 600
        thread.join()
