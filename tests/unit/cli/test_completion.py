"""Completion, in the shells themselves: a terminal, where Tab is pressed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from flask_socketact.cli import main
from flask_socketact.cli.completion.shells import SHELLS, script

#: Shells without the files of the machine and of its user, and how they read a script.
START = {
    "bash": (["bash", "--norc", "-i"], "source"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -D; source"),
    "fish": (["fish", "--no-config", "--interactive"], "source"),
}


def environment(home: Path) -> dict[str, str]:
    """Return an environment with the command on PATH, and a home folder of its own."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}


def press_tab(shell: str, line: str, home: Path, setup: str) -> str:
    """Type a line without Enter in a shell on a terminal, press Tab, and return what the terminal shows."""
    command, _ = START[shell]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environment(home))  # noqa: S606 (no shell but the one that is tested)
    try:
        os.write(terminal, f"{setup}\necho rea''dy\n".encode())
        shown = read_until(terminal, "\nready")
        os.write(terminal, f"{line}\t".encode())
        return shown.rpartition("ready")[2] + read_until(terminal, "status ", seconds=5)
    finally:
        os.kill(pid, 9)
        os.close(terminal)
        os.waitpid(pid, 0)


def read_until(terminal: int, text: str, seconds: float = 20.0) -> str:
    """Return what a terminal shows until `text` is there, or the time is over."""
    shown, deadline = "", time.monotonic() + seconds
    while text not in shown.replace("\r", "") and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown.replace("\r", "")


@pytest.mark.parametrize(
    "shell",
    [pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}")) for name in SHELLS],
)
def test_tab_completes_a_command(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(script(shell))
    assert "flask-socketact status " in press_tab(shell, "flask-socketact sta", tmp_path, f"{START[shell][1]} {file}")


def test_bash_completes_with_the_path_of_the_command(tmp_path: Path) -> None:
    """The command of a virtual environment is not on PATH."""
    file = tmp_path / "script"
    file.write_text(script("bash"))
    line = f"{Path(sys.executable).parent}/flask-socketact sta"
    assert "flask-socketact status " in press_tab("bash", line, tmp_path, f"source {file}")


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_printed(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion"], env={"SHELL": f"/usr/bin/{shell}"})
    assert (done.exit_code, done.stdout) == (0, script(shell))
    assert "flask-socketact" in done.stdout


@pytest.mark.parametrize("value", ["", "/bin/tcsh", None])
def test_another_shell_must_be_named(value: str | None) -> None:
    done = CliRunner().invoke(main, ["completion"], env={"SHELL": value})
    assert (done.exit_code, "add bash, zsh or fish" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".local/share/bash-completion/completions/flask-socketact"),
        ("zsh", ".zfunc/_flask-socketact"),
        ("fish", ".config/fish/completions/flask-socketact.fish"),
    ],
)
def test_a_user_installs_it_for_themselves(
    shell: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for _ in range(2):  # the second time it replaces its own file
        done = CliRunner().invoke(main, ["completion", shell, "--install"], env={"HOME": str(tmp_path)})
        assert (done.exit_code, done.stderr, done.stdout.count("\n")) == (0, "", 1)
        assert done.stdout.startswith(f"Wrote {tmp_path / file}. ")
        assert (tmp_path / file).read_text() == script(shell)
    (tmp_path / file).write_text("mine")
    done = CliRunner().invoke(main, ["completion", shell, "--install"], env={"HOME": str(tmp_path)})
    assert (done.exit_code, "was not changed: move it away first\n" in done.stderr) == (3, True)
    assert (tmp_path / file).read_text() == "mine"


def test_what_is_printed_after_an_installation_works_in_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = CliRunner().invoke(main, ["completion", "bash", "--install"], env={"HOME": str(tmp_path)})
    setup = done.stdout.rpartition("type: ")[2].strip()
    assert "flask-socketact status " in press_tab("bash", "flask-socketact sta", tmp_path, setup)


def test_completion_imports_no_server(tmp_path: Path) -> None:
    """It runs at each press of Tab."""
    command = "import flask_socketact.cli, sys; print([m for m in sys.modules if m in ('gunicorn', 'rich', 'asyncio')])"
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
