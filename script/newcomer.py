"""Type what the documentation says, line by line, on fresh machines with a network. Run by script/newcomer.

A walk is a machine of its own, and the pages that one reader follows there. What the pages do not say, because each
reader has it already, stands in `WALKS` and `SEES`; all else that a line needs must be on the page.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.machine import Machine, interrupt_on_terminate
from tests.support.pages import CHECKOUT, blocks, commands, text_of
from tests.support.terminal import Terminal, network

CLONE = "/home/dev/flask_socketact"  #: the user's clone of this repository
QUICK_START = "Quick start"
PIPELINE = "examples/pipeline/README.md"
LAST = 25  #: lines of the output of a command that fails


@dataclass(frozen=True)
class Page:
    """A page, or one section of it, and the reader whom it addresses."""

    path: str
    heading: str = ""
    skip: int = 0  #: blocks that were typed before
    count: int | None = None  #: read only so many blocks
    user: str = "dev"  #: who has logged in; dev may use sudo
    before: tuple[str, ...] = ()  #: what this reader has or does already
    leaves_out: tuple[str, ...] = ()  #: beginnings of lines


@dataclass(frozen=True)
class Sees:
    """What the reader of a page sees after a line."""

    line: str  #: its beginning
    shows: str = ""  #: a regular expression
    status: int = 0
    then: str = ""  #: a command that the text of the page names, which shows it


START = Page("README.md", QUICK_START, count=1)


def gunicorn_unit(name: str, user: str, options: str) -> str:
    """Return the line that writes a unit as an administrator has it for plain gunicorn, and starts it."""
    lines = (
        "[Service]",
        f"User={user}",
        f"WorkingDirectory=/srv/{user}",
        f"ExecStart=/srv/{user}/venv/bin/gunicorn --threads 8 {options}",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    quoted = " ".join(f"'{line}'" for line in lines)
    written = f"printf '%s\\n' {quoted} | sudo tee /etc/systemd/system/{name}.service"
    return f"{written} && sudo systemctl daemon-reload && sudo systemctl enable --now {name}"


#: Each on a fresh machine.
WALKS: dict[str, tuple[Page, ...]] = {
    "quick start": (
        Page("README.md", QUICK_START),
        Page("docs/systemd.md", "A user's own services"),
    ),
    "nginx": (START, Page("docs/nginx.md", user="root", before=(f"cd {CLONE}",))),
    "tutorial": (Page("docs/tutorial.md", user="root"),),
    "migrate": (
        Page(
            "docs/migrate.md",
            before=(
                "sudo apt-get update && sudo apt-get install -y python3-venv",
                "sudo useradd --system shop; sudo mkdir /srv/shop; sudo python3 -m venv /srv/shop/venv",
                "sudo /srv/shop/venv/bin/pip install flask gunicorn",
                "printf 'from flask import Flask\\napp = Flask(__name__)\\n' | sudo tee /srv/shop/wsgi.py",
                gunicorn_unit("shop", user="shop", options="wsgi:app"),
            ),
        ),
    ),
    "commands": (
        START,
        Page(
            "docs/commands.md",
            before=(gunicorn_unit("plain", user="app", options="--bind 127.0.0.1:8001 app:app"),),
        ),
    ),
    "pipeline": (
        Page(PIPELINE, "Set up a server", count=2, user="root"),
        Page(
            PIPELINE,
            "Set up a server",
            skip=2,
            user="root",
            before=(
                "apt-get install -y openssh-server curl && echo 127.0.0.1 web1 >> /etc/hosts",
                "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; install -o deploy -d ~deploy/.ssh",
                "install -o deploy ~/.ssh/id_ed25519.pub ~deploy/.ssh/authorized_keys",
                "ssh -o StrictHostKeyChecking=accept-new deploy@web1 true",
                "cd ~/flask_socketact/examples && echo ~/flask_socketact > requirements.txt",
                "for RELEASE in 41 42; do /opt/flask-socketact/venv/bin/python pipeline/build.py . $RELEASE dist; done",
                "RELEASE=41",
                'pipeline/stage.sh deploy@web1 "dist/$RELEASE.json" /srv/app/releases',
            ),
        ),
        Page(
            PIPELINE,
            "Go back",
            user="root",
            before=(
                "cd ~/flask_socketact/examples && RELEASE=42",
                'pipeline/stage.sh deploy@web1 "dist/$RELEASE.json" /srv/app/releases',
                'ssh deploy@web1 sudo flask-socketact deploy app --release "/srv/app/releases/$RELEASE"',
                'pipeline/rehearse.sh "dist/$RELEASE.json"',
            ),
        ),
    ),
    "demo": (Page("README.md", "See it", leaves_out=("script/test",)),),
}
SEES: dict[str, tuple[Sees, ...]] = {
    "README.md": (
        Sees(
            "sudo systemctl enable --now", "Hello from process .* by listener http", then="curl http://127.0.0.1:8000/"
        ),
        Sees("sudo systemctl enable --now", "gunicorn", then="systemctl status app"),
        Sees("sudo flask-socketact units --remove", "/srv/app"),
        Sees("script/demo", r"Broken(.|\n)*[\d,]+ requests, 0 failed, 0 connections closed, 5 restarts"),
    ),
    "docs/nginx.md": (
        Sees("curl", "Hello from process"),
        Sees("flask-socketact rehearse", "Kept: no client noticed"),
    ),
    "docs/tutorial.md": (
        Sees("curl --fail --silent --show-error http://127.0.0.1:8001/", "Hello, release 1"),
        Sees("systemctl enable --now", "shop-admin|admin", then="systemctl status shop"),
        Sees("systemctl enable --now", "checks are ok", then="flask-socketact doctor shop"),
    ),
    "docs/migrate.md": (
        Sees("sudo flask-socketact units --from", "systemctl stop shop.service"),
        Sees("sudo systemctl stop shop.service", "checks are ok", then="flask-socketact doctor shop"),
        Sees("sudo flask-socketact units --remove shop", r"shop.service.old"),
    ),
    "docs/commands.md": (
        Sees("flask-socketact list", "app +active +127.0.0.1:8000"),
        Sees("flask-socketact status", "Serving with 2 of 2 workers"),
        Sees("sudo flask-socketact rehearse --url", "Broken", status=1),
        Sees("sudo flask-socketact rehearse --title", "Kept: no client noticed"),
        Sees("sudo flask-socketact deploy", "Deployed /srv/app/releases/42"),
    ),
}


@dataclass
class Reader:
    """Types, prints what was typed, and remembers what failed."""

    failures: list[str] = field(default_factory=list)
    typed: int = 0

    def read(self, machine: Machine, page: Page) -> None:
        """Type what is on a page."""
        terminal = Terminal(machine, page.user)
        try:
            if page.user == "dev":
                terminal.type(f"cd {CLONE}")
            for line in page.before:
                self._type(terminal, page, line, Sees(line))
            for block in blocks(page.path, page.heading)[page.skip : page.count]:
                for line in commands(block):
                    if not line.startswith(page.leaves_out or ("\n",)):
                        self._type_and_look(terminal, page, line)
        finally:
            terminal.close()

    def _type_and_look(self, terminal: Terminal, page: Page, line: str) -> None:
        sees = [see for see in SEES.get(page.path, ()) if line.startswith(see.line)]
        here = next((see for see in sees if not see.then), Sees(line))
        self._type(terminal, page, line, here)
        for see in sees:
            if see.then:
                assert f"`{see.then}`" in text_of(page.path), f"{page.path} does not say `{see.then}`"
                self._type(terminal, page, see.then, see)

    def _type(self, terminal: Terminal, page: Page, line: str, see: Sees) -> None:
        """Type a line, and compare; raise TimeoutError if it does not end."""
        begin = time.monotonic()
        status: int | None = None
        try:
            status, printed = terminal.type(line)
        except TimeoutError as error:
            printed = str(error)
            raise
        finally:
            wrong = _what_is_wrong(status, printed, see)
            self.typed += 1
            print(f"{'X' if wrong else ' '} {page.user}$ {line}    [{time.monotonic() - begin:.1f} s]", flush=True)
            if wrong:
                lines = [line.rsplit("\r")[-1] for line in printed.rstrip().splitlines()]
                print("\n".join((f"X {wrong}. Its last lines:", *lines[-LAST:])), flush=True)
                self.failures.append(f"{page.path}: {line.splitlines()[0]}: {wrong}")


def _what_is_wrong(status: int | None, printed: str, see: Sees) -> str:
    """Return what differs from what the page says, or nothing."""
    if status is None:
        return "does not end"
    if status != see.status:
        return f"exit status {status}"
    return "" if re.search(see.shows, printed) else f"does not show {see.shows!r}"


def prepare(machine: Machine) -> None:
    """Give a fresh machine what a new server has: a user with sudo, who has a clone."""
    machine.run("useradd", "--create-home", "--shell", "/bin/bash", "dev")
    machine.path("/etc/sudoers.d/dev").write_text("dev ALL=(ALL) NOPASSWD: ALL\n")
    machine.path("/etc/sudoers.d/dev").chmod(0o440)
    machine.path("/etc/hosts").write_text(
        f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {machine.run('hostname').stdout}"
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for folder in (CLONE, "/root/flask_socketact"):
        for name in listed.stdout.split("\0")[:-1]:
            target = machine.path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target)
    machine.run("chown", "--recursive", "dev:dev", "/home/dev")


def walk(tree: str, pages: tuple[Page, ...], reader: Reader) -> None:
    with Machine(tree) as machine:
        prepare(machine)
        machine.systemctl("start", "multi-user.target")  # users may log in
        with network(machine):
            for page in pages:
                reader.read(machine, page)


def main(trees: list[str]) -> int:
    interrupt_on_terminate()
    failures: list[str] = []
    for tree in trees:
        for name, pages in WALKS.items():
            machine = f"{Path(tree).name}, {name}"
            print(f"\nnewcomer: {machine}", flush=True)
            reader = Reader()
            with suppress(TimeoutError):  # told already; what comes next would be typed into the same question
                walk(tree, pages, reader)
            print(f"newcomer: {machine}: {reader.typed} commands typed, {len(reader.failures)} failed", flush=True)
            failures += [f"{machine}: {failure}" for failure in reader.failures]
    print("\n".join(["", f"newcomer: {len(failures)} failed" if failures else "newcomer: everything works", *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
