"""The table of exit statuses in docs/commands.md, by typing commands that have each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.machine import EXAMPLES, Machine, drop_in, install

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = "/srv/app/venv/bin/flask-socketact"
AS_NOBODY = "runuser -u nobody --"
QUICK = "--restarts 1 --every 0.5 --silent 0 --slow 0"
#: In the foreground timeout sends the signal once; otherwise again to its group, which is a second Ctrl-C.
INTERRUPT = "timeout --foreground --preserve-status --signal=INT"

#: What is typed, and its exit status. Each finds the service app active, and a good release in place.
TYPED = {
    0: [
        f"{CLI} list",
        f"{CLI} status app",
        f"{CLI} doctor app",
        f"{CLI} completion bash",
        f"{CLI} completion zsh --install",
        f"{CLI} units",
        f"{CLI} units --output /tmp",
        f"{CLI} units --install --directory /srv/app/current --python /srv/app/venv/bin/python3",
        f"cd /tmp; {CLI} init",
        f"systemctl stop app; {CLI} list",
        f"{CLI} rehearse {QUICK}",
        f"{CLI} deploy app --healthy 1",
        f"{INTERRUPT} 5 {CLI} status app --watch",
    ],
    1: [
        f"systemctl stop app; {CLI} status app",
        f"rm -rf /srv/app/current/app.py; {CLI} doctor app",
        f"{CLI} rehearse {QUICK} --fail-on 'p99>=0'",
        f"{CLI} deploy app --release /srv/app/releases/raises --healthy 1 --timeout 5",
        f"{INTERRUPT} 8 {CLI} deploy app --release /srv/app/releases/next --no-trial --healthy 60",
    ],
    2: [
        *(
            f"{CLI} {name} --nope"
            for name in ("list", "status", "doctor", "completion", "units", "init", "rehearse", "deploy")
        ),
        f"{CLI}",
        f"{CLI} units --workers 0",
        f"{CLI} units --user root",
        f"{CLI} rehearse --url https://127.0.0.1/",
        f"{CLI} rehearse --long-path x",
        f"{CLI} doctor app.socket",
        f"{CLI} status",
        f"{CLI} deploy app --page x",
        f"{CLI} init /no/such",
        f"{CLI} completion ksh",
    ],
    3: [
        *(f"{CLI} {name} nope" for name in ("status", "doctor", "deploy")),
        *(f"{CLI} {name} --user-manager" for name in ("list", "status app", "doctor app", "deploy app")),
        f"{CLI} deploy app --release /srv/app/releases/nope",
        f"{AS_NOBODY} {CLI} deploy app",
        f"{AS_NOBODY} {CLI} units --install",
        f"{AS_NOBODY} {CLI} init /srv/app",
        f"{AS_NOBODY} {CLI} rehearse {QUICK}",
        f"{AS_NOBODY} env HOME=/nonexistent {CLI} completion bash --install",
        f"touch /tmp/flask_socketact.conf; {CLI} init /tmp",
        f"{CLI} rehearse --url http://127.0.0.1:1/",
        f"{CLI} rehearse --url http://127.0.0.1:1/ --do true",
        f"{CLI} rehearse {QUICK} --do 'systemctl restart nope'",
        f"{CLI} rehearse --compare /etc/passwd --report /tmp/x.html",
    ],
    4: [
        f"echo broken >> /srv/app/current/app.py; {CLI} deploy app --release /srv/app/releases/raises --no-trial",
        f"systemd-run --quiet --pipe --wait -p RestrictAddressFamilies=AF_INET {CLI} units --install",
    ],
    130: [
        f"{INTERRUPT} 2 {CLI} rehearse --restarts 0 --every 60",
        f"{INTERRUPT} 0.8 {CLI} status app",
    ],
}


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        install(machine, "app")
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """The good release runs, and files of other cases are gone."""
    good = (EXAMPLES / "app.py").read_text()
    booted.run(
        "rm",
        "-rf",
        "/tmp/flask_socketact.conf",  # noqa: S108 (the machine's)
        "/var/lib/flask-socketact",
    )
    for name, source in {"good": good, "next": good, "raises": f"{good}raise RuntimeError\n"}.items():
        folder = booted.path(f"/srv/app/releases/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.py").write_text(source)
    booted.run("ln", "-sfn", "releases/good", "/srv/app/current")
    booted.run(CLI, "units", "--install", "--directory", "/srv/app/current", "--python", "/srv/app/venv/bin/python3")
    drop_in(booted, "app.service", "")
    booted.systemctl("restart", "app")
    return booted


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(line, status, id=f"{status}: {line.replace(CLI, 'flask-socketact')}")
        for status, lines in TYPED.items()
        for line in lines
    ],
)
def test_exit_status(machine: Machine, line: str, status: int) -> None:
    done = machine.run("bash", "-c", line, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    if status in (2, 3) and line != CLI:
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        assert ("log in as the user" in done.stderr) == ("--user-manager" in line)
