"""Wrong command lines: each is one line, with a remedy."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner, Result

from flask_socketact.cli import main

#: What is wrong in every command.
EVERYWHERE = ["--nope", "--jsom", "-x", "--help=1", "'' '' ''", "--user-manger x"]
NAMES = [
    "",
    "''",
    "'a b'",
    "../app",
    "/srv/app",
    "app.socket",
    "app@",
    "'*'",
    "'$(id)'",
    "a/b",
    "'a\nb'",
    "ä",
    "app web",
]
WRONG = {
    "list": ["app", "--json=yes", "--watch", "''", "--user-manager=no", "--all", "-a", "--json x", "app web"],
    "completion": [
        "ksh",
        "bash zsh",
        "--install=yes",
        "''",
        "BASH",
        "/bin/bash",
        "--instal",
        "powershell",
        "--shell bash",
    ],
    "doctor": [*NAMES, "app --quite", "app --quiet --json", "app --json=1", "app --watch"],
    "status": [*NAMES, "app --watch=2", "app --interval 2", "app --quiet"],
    "deploy": [
        *("", "''", "../app", "app --release", "app --release ''", "app --page index", "app --page ''"),
        *("app --page '/a b'", "app --page http://x/", "app --healthy 0", "app --healthy 5s", "app --healthy -1"),
        *("app --timeout 0.5", "app --timeout inf", "app --timeout nan", "app --max-errors 5%", "app --max-errors 101"),
        *("app /srv/app/releases/42", "app --releases /x", "app --restart", "app --reload=yes"),
        *("app --canary 10%", *(f"app --release /x --canary {percent}" for percent in ("0%", "101%", "0.5%", "''"))),
    ],
    "lb": [
        *(
            "",
            "''",
            "../app",
            "app stop",
            "app Drain",
            "app weight",
            "app weight 0%",
            "app weight 101%",
            "app weight 1.5",
        ),
        *(
            "app weight -5",
            "app weight ten",
            "app drain 10%",
            "app ready 50%",
            "app 10%",
            "app drain --for",
            "app --for 5",
        ),
        *("app drain --for 0", "app drain --for 5s", "app ready --for 5", "app ready --wait", "app weight 5% --wait"),
        *("app drain --timeout 5", "app drain --wait --timeout 0", "app drain ready x", "app --wait", "drain app now"),
    ],
    "rehearse": [
        *("app", "--url ''", "--url app", "--url 127.0.0.1:8000", "--url https://127.0.0.1/", "--url http://"),
        *("--url http://127.0.0.1:99999/", "--url http://[::1/", "--url http://u:p@127.0.0.1/"),
        *("--url 'http://127.0.0.1/#top'", "--url 'http://127.0.0.1/a b'", "--do ''", "--do '\"'", "--restarts -1"),
        *("--restarts 1.5", "--restarts many", "--every 0", "--every nan", "--clients 999999", "--think -1"),
        *("--clients 0 --keep-alive 0 --idle 0 --silent 0 --slow 0", "--long-path sleep", "--upload-path '/a b'"),
        *("--timeout 0", "--fail-on ''", "--fail-on failed", "--fail-on 'failed>x'", "--fail-on 'wait>0.5s'"),
        *("--report /no/such/x.html", "--report /", "--report ''", "--compare /no/such", "--compare /etc/passwd"),
    ],
    "units": [
        *(
            "x",
            "--app x",
            "--app ''",
            "--name 'a b'",
            "--name app.service",
            "--user root",
            "--user ''",
            "--group 'a b'",
        ),
        *("--directory srv", "--directory ''", "--python python3", "--listen ''", "--listen localhost:80"),
        *("--listen 99999", "--listen 8000 --listen 8000", "--listen 127.0.0.1:80=", "--workers 0", "--workers x"),
        *("--threads -1", "--drain 3h", "--drain 0", "--idle-exit 1.5", "--systemd-version 1", "--output /no/such"),
        *("--install --output /tmp", "--socket-group www-data", "--user-manager --user x", "--instal"),
    ],
    "init": ["/no/such", "/etc/passwd", "a b", "--force", "''", "/etc/passwd x", "--output x", ". ."],
}


def typed(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line), prog_name="flask-socketact")


@pytest.mark.parametrize(
    "line", [f"{name} {arguments}" for name, wrong in WRONG.items() for arguments in (*wrong, *EVERYWHERE)]
)
def test_wrong_command_lines(line: str) -> None:
    done = typed(line)
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: .+\n", done.stderr)
    assert done.stderr.replace("\n", "").isprintable()
    if found := re.search(r"see (flask-socketact .*--help)$", done.stderr, re.IGNORECASE):
        assert typed(found[1].removeprefix("flask-socketact ")).exit_code == 0


@pytest.mark.parametrize("line", ["nope", "Doctor", "--json", "''", "--version=1", "help doctor"])
def test_wrong_commands(line: str) -> None:
    done = typed(line)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith("ee flask-socketact --help\n")


def test_without_a_command_the_help_is_shown() -> None:
    assert "Commands:" in typed("").output


def test_below_flask_too() -> None:
    """`flask socketact` has the same commands."""
    parent = click.Group("flask", {"socketact": main})
    done = CliRunner().invoke(parent, ["socketact", "doctor"], prog_name="flask")
    assert (done.exit_code, done.stderr) == (2, "Error: Missing argument 'NAME'; see flask socketact doctor --help\n")
