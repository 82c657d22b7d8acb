"""The checks of ``flask-socketact doctor``, with properties as systemd 252 prints them."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flask_socketact.cli import bounded, main, unit_journal
from flask_socketact.cli.doctor import service_settings
from flask_socketact.cli.doctor.account import Account
from flask_socketact.cli.doctor.checks import CHECKS, run
from flask_socketact.cli.doctor.checks.relay import is_changeable
from flask_socketact.cli.doctor.command import as_object
from flask_socketact.cli.doctor.environment import environment, expand, parse_environment
from flask_socketact.cli.doctor.finding import Finding, Verdict, error, ok, warning
from flask_socketact.cli.doctor.output import as_line, show
from flask_socketact.cli.doctor.service_settings import START, Settings, UnreadError, read_settings
from flask_socketact.cli.doctor.system import System
from flask_socketact.cli.options import parse_name
from flask_socketact.cli.ports import Lost
from flask_socketact.systemd.manager import Manager, Unit, parse_command, parse_properties, parse_span
from flask_socketact.text import printable

RELAY = "/usr/local/lib/flask-socketact/relay"
COMMAND = (
    "{{ path={path} ; argv[]={path} {words} ; flags={flags} ; "
    "start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}"
)
TERM = """kill -TERM "$$1"; while kill -0 "$$1" 2>/dev/null; do sleep 0.05; done sh $MAINPID"""


def command(words: str, flags: str = "ignore-failure", path: str = RELAY) -> str:
    return COMMAND.format(path=path, words=words, flags=flags)


HUP = command("""-c kill -HUP "$$1" sh $MAINPID""", "", "/bin/sh")
RELOAD = command("reload app.service", "")
KILL = command(f"-c {TERM}", "ignore-failure", "/bin/sh")
STOP = command("stop app.service")
SERVICE = f"""\
Type=notify
Wants=app-relay.service app-watchdog.path
Restart=on-failure
NotifyAccess=main
RestartUSec=2s
TimeoutStopUSec=1min 15s
ActiveState=active
SubState=running
Result=success
StatusText=Serving with 2 of 2 workers
WatchdogUSec=1min
WatchdogSignal=30
OOMPolicy=continue
ExecReloadEx={HUP}
ExecReloadEx={RELOAD}
ExecStopEx={KILL}
ExecStopPostEx={command("stop-post app.service")}
LimitNOFILESoft=65536
WorkingDirectory=/srv/app
User=nobody
Group=
RemoveIPC=no
SupplementaryGroups=
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths=
NonBlocking=yes
StateDirectory=app
RuntimeDirectory=app-metrics
RuntimeDirectoryMode=0711
Environment=PYTHONUNBUFFERED=1 PWD=/srv/app PROMETHEUS_MULTIPROC_DIR=/run/app-metrics/prometheus
KillMode=control-group
SendSIGKILL=yes
TriggeredBy=app.socket
JoinsNamespaceOf=app.socket
LoadState=loaded
FragmentPath=/etc/systemd/system/app.service
DropInPaths=
NeedDaemonReload=no
LoadError=
StartLimitIntervalUSec=0
StartLimitBurst=5
"""
SOCKET = """\
Backlog=2147483647
SocketUser=nobody
SocketGroup=
SocketMode=0600
Accept=no
FlushPending=no
Listen=127.0.0.1:8000 (Stream)
Listen=/run/app/mailbox (SequentialPacket)
Result=success
TriggerLimitIntervalUSec=0
TriggerLimitBurst=20
ExecStartPre={ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 }
PrivateTmp=yes
Triggers=app.service
UnitFileState=enabled
LoadState=loaded
ActiveState=active
FragmentPath=/etc/systemd/system/app.socket
DropInPaths=
NeedDaemonReload=no
"""
HELPER = """\
LoadState=loaded
DropInPaths=
NeedDaemonReload=no
"""
RELAY_UNIT = f"""{HELPER}\
FragmentPath=/etc/systemd/system/app-relay.service
ActiveState=active
PartOf=app.service
After=app.service system.slice
ExecStopEx={STOP}
"""
WATCHDOG_PATH = f"""{HELPER}\
FragmentPath=/etc/systemd/system/app-watchdog.path
ActiveState=active
Paths=/run/app-metrics/watchdog (PathModified)
"""
WATCHDOG_SERVICE = f"""{HELPER}\
FragmentPath=/etc/systemd/system/app-watchdog.service
ActiveState=inactive
ExecStartEx={command("watchdog app.service")}
"""
SETTINGS = Settings(
    graceful_timeout=30,
    worker_connections=10000,
    workers=2,
    threads=4,
    worker_class="flask_socketact.workers.thread.ThreadWorker",
    our_worker=True,
    our_master=True,
    app="app:app",
    found=True,
    file="/srv/app/app.py",
    readable=True,
)

Changes = Mapping[str, "str | tuple[str, ...]"]


def unit(name: str, text: str, changes: Changes) -> Unit:
    lines = {key: (value,) if isinstance(value, str) else value for key, value in changes.items()}
    return Unit(name, parse_properties(text) | lines)


def system(
    service: Changes | None = None,
    socket: Changes | None = None,
    relay: Changes | None = None,
    watchdog: Changes | None = None,
    **changes: Any,
) -> System:
    """Return the data of the example units, with changes."""
    read = System(
        user_manager=False,
        service=unit("app.service", SERVICE, service or {}),
        sockets=(unit("app.socket", SOCKET, socket or {}),),
        own_socket="loaded",
        masked=(),
        failures={},
        ignored=(),
        command=(),
        lost=Lost((), ()),
        occupants={},
        relay=unit("app-relay.service", RELAY_UNIT, relay or {}),
        watchdog_path=unit("app-watchdog.path", WATCHDOG_PATH, watchdog or {}),
        watchdog_service=unit("app-watchdog.service", WATCHDOG_SERVICE, {}),
        settings=SETTINGS,
        version="252.39-1~deb12u2",
        bus="",
        somaxconn=4096,
    )
    return replace(read, **changes)


#: These look at files that this machine may not have.
FILES = ("relay permissions", "relay version")
#: These say nothing when all is well, another than root asks, or the service has no agent.
ABSENT = ("command", "ignored lines", "linger", "masked", "agent", "share")


def test_examples_are_healthy() -> None:
    found = [finding for check, finding in run(system()) if check not in FILES]
    assert [finding for finding in found if finding.verdict is not Verdict.OK] == []
    assert len(found) == len(CHECKS) - len(FILES) - len(ABSENT)


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "words"),
    [
        ("unit files", {"NeedDaemonReload": "yes"}, "warning", "app.service changed on disk"),
        (
            "state",
            {"ActiveState": "failed", "Result": "exit-code"},
            "error",
            "app.service is failed (exit-code): Serving",
        ),
        (
            "state",
            {"SubState": "auto-restart", "StatusText": "Worker failed"},
            "error",
            "(success): Worker failed. See jour",
        ),
        ("state", {"StatusText": "Reload failed (x)"}, "warning", "app.service is active: Reload failed (x)"),
        ("state", {"ActiveState": "inactive", "StatusText": ""}, "ok", "app.service is inactive"),
        ("drain time", {"TimeoutStopUSec": "30s"}, "error", "are killed before the drain time ends"),
        ("drain time", {"TimeoutStopUSec": "1min"}, "warning", "two drains"),
        ("drain time", {"TimeoutStopUSec": "infinity"}, "warning", "never killed"),
        ("drain time", {"TimeoutStopUSec": "1min 1ms"}, "ok", "graceful_timeout=30 s"),
        ("descriptors", {"LimitNOFILESoft": "1023"}, "error", "LimitNOFILE=1023"),
        ("descriptors", {"LimitNOFILESoft": "1024"}, "warning", "worker_connections=10000"),
        ("descriptors", {"LimitNOFILESoft": "infinity"}, "ok", "LimitNOFILE=infinity"),
        (
            "application",
            {"WorkingDirectory": "/home/app/web"},
            "error",
            "ProtectHome=yes in app.service hides /home/app/web",
        ),
        ("application", {"WorkingDirectory": "/home/app", "ProtectHome": "read-only"}, "ok", "/srv/app/app.py"),
        ("start limit", {"StartLimitIntervalUSec": "10s"}, "error", "5 times in 10 s"),
        ("start limit", {"StartLimitIntervalUSec": "10s", "StartLimitBurst": "0"}, "ok", "no start limit"),
        ("restart", {"Restart": "no"}, "error", "a master that was killed is not started again"),
        ("restart", {"Restart": "on-success"}, "error", "a master that was killed is not started again"),
        ("restart", {"Restart": "on-watchdog"}, "error", "a master that was killed is not started again"),
        ("restart", {"Restart": "on-abort"}, "warning", "is not started again"),
        ("restart", {"Restart": "always"}, "ok", "Restart=always"),
        ("restart", {"RestartUSec": "0"}, "warning", "without a pause"),
        ("readiness", {"Type": "exec"}, "error", "Type=exec"),
        ("readiness", {"Type": "notify-reload"}, "ok", "Type=notify-reload"),
        ("readiness", {"NotifyAccess": "none"}, "error", "NotifyAccess=none"),
        ("readiness", {"NotifyAccess": "exec"}, "warning", "NotifyAccess=exec"),
        ("readiness", {"NotifyAccess": "all"}, "warning", "NotifyAccess=all"),
        ("kill mode", {"KillMode": "mixed"}, "error", "if the master is killed, so are its workers"),
        ("kill mode", {"KillMode": "process"}, "error", "left behind"),
        ("kill mode", {"KillMode": "none"}, "error", "left behind"),
        ("final kill", {"SendSIGKILL": "no"}, "warning", "SendSIGKILL=no"),
        ("shared memory", {"RemoveIPC": "yes"}, "warning", "RemoveIPC=yes"),
        ("sandbox", {}, "ok", "app.service may write to /var/lib/app, /run/app-metrics and a private /tmp; for more"),
        ("sandbox", {"ReadWritePaths": "-/srv/a /b", "PrivateTmp": "no"}, "ok", "/run/app-metrics, /srv/a and /b; for"),
        ("sandbox", {"LogsDirectory": "app"}, "ok", "/var/log/app, /run/app-metrics and a private /tmp; for more"),
        ("sandbox", {"ProtectSystem": "full"}, "ok", "ProtectSystem=full in app.service: the permissions of files"),
        ("counters", {"Environment": "A=b"}, "ok", "/run/app-metrics of app.service"),
        ("counters", {"Environment": "PROMETHEUS_MULTIPROC_DIR=/run/app-metrics"}, "warning", "recipes for prometheus"),
        (
            "counters",
            {"RuntimeDirectory": ""},
            "warning",
            "no RuntimeDirectory= in app.service: status shows no",
        ),
        ("counters", {"RuntimeDirectoryMode": "0700"}, "warning", "RuntimeDirectoryMode=0700"),
        ("reload", {"Type": "notify-reload"}, "warning", "Type=notify-reload and ExecReload="),
        ("reload", {"Type": "notify-reload", "ExecReloadEx": RELOAD}, "ok", "waits for the new workers"),
        ("reload", {"ExecReloadEx": RELOAD}, "warning", "systemctl reload does nothing"),
        ("reload", {"ExecReloadEx": HUP}, "warning", "no ExecReload=…/relay reload %n in app.service"),
        ("watchdog", {"WatchdogUSec": "0"}, "warning", "no WatchdogSec= in app.service"),
        ("watchdog", {"WatchdogUSec": "infinity"}, "warning", "no WatchdogSec= in app.service"),
        ("watchdog", {"WatchdogSignal": "6"}, "warning", "WatchdogSignal=6 in app.service"),
        ("out of memory", {"OOMPolicy": "stop"}, "warning", "OOMPolicy=stop in app.service"),
        ("non-blocking", {"NonBlocking": "no"}, "error", "old workers hang"),
        ("private /tmp", {"JoinsNamespaceOf": ""}, "error", "uploads to old workers fail"),
        ("private /tmp", {"JoinsNamespaceOf": "", "PrivateTmp": "no"}, "ok", "outlives"),
        ("private /tmp", {"JoinsNamespaceOf": "", "PrivateTmpEx": "disconnected"}, "ok", "outlives"),
        (
            "root",
            {"ExecStopEx": command("stop app.service", "privileged")},
            "error",
            "can become root. Install the units again",
        ),
        ("root", {"ExecStartPreEx": command("", "privileged", "/bin/a")}, "error", "Move it to a unit of its own"),
        ("root", {"ExecStartPreEx": command("", "privileged", "/bin/a"), "User": ""}, "ok", "no command"),
        ("relay", {"Wants": "app-watchdog.path"}, "error", "no Wants=app-relay.service in app.service"),
        ("watchdog relay", {"ExecStopPostEx": ()}, "error", "no ExecStopPost=…/relay stop-post %n"),
        ("watchdog relay", {"Wants": "app-relay.service"}, "error", "no Wants=app-watchdog.path in app.service"),
        (
            "watchdog relay",
            {"RuntimeDirectory": "other"},
            "error",
            "does not watch the file watchdog in",
        ),
        ("mailbox access", {"User": "root"}, "ok", "root may connect"),
        ("mailbox access", {"User": "daemon"}, "error", "daemon may not connect"),
        ("mailbox access", {"User": "nobody-here"}, "error", "there is no user nobody-here"),
    ],
)
def test_service(check: str, changes: Changes, verdict: str, words: str) -> None:
    expect(system(service=changes), check, verdict, words)


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "words"),
    [
        ("unit files", {"NeedDaemonReload": "yes"}, "warning", "app.socket changed on disk"),
        ("boot", {"UnitFileState": "disabled"}, "warning", "app.socket not enabled: the port is closed after a reboot"),
        ("port", {"ActiveState": "failed", "Result": "trigger-limit-hit"}, "error", "failed (trigger-limit-hit)"),
        ("port", {"Listen": "/run/app/mailbox (SequentialPacket)"}, "error", "no ListenStream="),
        ("accept", {"Accept": "yes"}, "error", "Accept=yes"),
        ("waiting connections", {"FlushPending": "yes"}, "error", "FlushPending=yes"),
        ("trigger limit", {"TriggerLimitIntervalUSec": "2s"}, "error", "20 times in 2 s"),
        ("trigger limit", {"TriggerLimitIntervalUSec": "2s", "TriggerLimitBurst": "0"}, "ok", "no trigger limit"),
        ("backlog", {"Backlog": "4096"}, "ok", "net.core.somaxconn=4096"),
        ("backlog", {"Backlog": "4294967295"}, "ok", "net.core.somaxconn=4096"),
        ("backlog", {"Backlog": "4097"}, "warning", "is limited to net.core.somaxconn=4096"),
        ("backlog", {"Backlog": "128"}, "warning", "only 128"),
        ("mailbox", {"Listen": "8000 (Stream)"}, "error", "ListenSequentialPacket=/run/app/mailbox"),
        ("mailbox", {"Listen": ("/a (SequentialPacket)", "@b (SequentialPacket)")}, "error", "2 mailboxes"),
        ("mailbox access", {"SocketUser": ""}, "error", "nobody may not connect"),
        ("mailbox access", {"SocketUser": "", "SocketGroup": "nogroup"}, "error", "nobody may not connect"),
        ("mailbox access", {"SocketUser": "", "SocketGroup": "nogroup", "SocketMode": "0660"}, "ok", "may connect"),
        ("mailbox access", {"SocketUser": "", "SocketMode": "0666"}, "ok", "may connect"),
        ("mailbox access", {"SocketMode": "0466"}, "error", "nobody may not connect"),
        ("mailbox access", {"SocketGroup": "no-such-group"}, "error", "there is no group no-such-group"),
        (
            "private /tmp",
            {"PrivateTmp": "no"},
            "error",
            "relay start-pre app.service in app.socket",
        ),
        (
            "private /tmp",
            {"ExecStartPre": ""},
            "error",
            "relay start-pre app.service in app.socket",
        ),
    ],
)
def test_socket(check: str, changes: Changes, verdict: str, words: str) -> None:
    expect(system(socket=changes), check, verdict, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"LoadState": "not-found"}, "there is no app-relay.service: clients wait in a restart"),
        ({"ExecStopEx": command("stop other.service")}, "there is no ExecStop=…/relay stop app.service"),
        ({"PartOf": ""}, "no PartOf=app.service in app-relay.service"),
        ({"After": "system.slice"}, "no After=app.service in app-relay.service"),
        ({"ActiveState": "inactive"}, "app-relay.service is inactive: clients wait in the next restart"),
    ],
)
def test_relay_unit(changes: Changes, words: str) -> None:
    expect(system(relay=changes), "relay", "error", words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"LoadState": "not-found"}, "is missing"), ({"ActiveState": "failed"}, "app-watchdog.path is failed")],
)
def test_watchdog_path(changes: Changes, words: str) -> None:
    expect(system(watchdog=changes), "watchdog relay", "error", words)


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "words"),
    [
        ("systemd", {"version": "251.4"}, "error", "systemd 251.4 is too old"),
        ("systemd", {"version": "v255.4-1.fc40"}, "ok", "255.4"),
        ("D-Bus", {"bus": "busctl: Failed to connect to bus: No such file"}, "error", "Install dbus"),
        ("D-Bus", {"bus": "busctl: …", "user_manager": True}, "error", "Install dbus-user-session"),
        ("linger", {"linger": True, "user_manager": True}, "ok", "without a login"),
        ("linger", {"linger": False, "user_manager": True}, "warning", "loginctl enable-linger"),
        ("linger", {"linger": None, "user_manager": True}, "warning", "is unknown"),
        ("port", {"sockets": ()}, "error", "no socket unit holds the port"),
        (
            "port",
            {"sockets": (), "own_socket": "not-found"},
            "error",
            "there is no app.socket. Install the",
        ),
        (
            "port",
            {"sockets": (), "masked": ("app.socket",)},
            "error",
            "systemctl unmask app.socket; Install the",
        ),
        ("port", {"lost": Lost(("[::]:80",), ())}, "error", "nothing listens at [::]:80: systemd still holds"),
        ("port", {"lost": Lost(("[::]:80",), ("[::]:80",))}, "error", "systemd no longer holds [::]:80, only the"),
        ("port", {"lost": Lost(("a:1", "b:2"), ("a:1",))}, "error", "nothing listens at b:2: systemd still holds"),
        (
            "mailbox",
            {"sockets": ()},
            "error",
            "no mailbox: its restarts close idle connections. Install",
        ),
        (
            "masked",
            {"masked": ("app.socket", "app-relay.service")},
            "error",
            "unmask app.socket app-relay.service",
        ),
        (
            "ignored lines",
            {"ignored": ("/a.conf:1: b",)},
            "warning",
            "ignores a line: /a.conf:1: b. Correct",
        ),
        ("ignored lines", {"ignored": ("/a:1: b", "/a:2: c")}, "warning", "/a:1: b (and 1 more)"),
        ("backlog", {"somaxconn": 128}, "warning", "only 128"),
        ("application", {"settings": warning("w", "r")}, "warning", "w"),
        ("application", {"settings": error("e", "r")}, "error", "e"),
        ("application", {"settings": replace(SETTINGS, found=False)}, "error", "the module of app:app does not exist"),
        ("application", {"settings": replace(SETTINGS, readable=False)}, "error", "/srv/app/app.py"),
        ("configuration", {"settings": replace(SETTINGS, our_master=False)}, "error", "flask_socketact.conf"),
        ("configuration", {"settings": replace(SETTINGS, our_worker=False)}, "error", "worker_class="),
        ("drain time", {"settings": warning("w", "r")}, "warning", "cannot be compared"),
        ("drain time", {"settings": replace(SETTINGS, graceful_timeout=75)}, "error", "TimeoutStopSec=165"),
        ("descriptors", {"settings": replace(SETTINGS, worker_connections=70000)}, "warning", "LimitNOFILE=140000"),
        ("descriptors", {"settings": warning("w", "r")}, "ok", "LimitNOFILE=65536"),
    ],
)
def test_surroundings(check: str, changes: dict[str, Any], verdict: str, words: str) -> None:
    expect(system(**changes), check, verdict, words)


def expect(read: System, check: str, verdict: str, words: str) -> None:
    finding = CHECKS[check](read)
    assert finding is not None
    assert finding.verdict.value == verdict
    assert words in f"{finding.found}. {finding.remedy}"
    assert bool(finding.remedy) == (finding.verdict is not Verdict.OK)


@pytest.mark.parametrize("check", ["linger", "boot", "backlog", "mailbox access", "configuration"])
def test_check_that_does_not_apply(check: str) -> None:
    assert CHECKS[check](system(sockets=(), settings=warning("w", "r"))) is None


def test_reasons_of_failed_units() -> None:
    """STATUS= of the service has precedence over the journal."""
    failures = {"app.service": "Permission denied", "app.socket": "Address already in use"}
    failed = {"ActiveState": "failed", "Result": "resources"}
    expect(system(service=failed, failures=failures), "state", "error", "is failed (resources): Serving with 2 of 2")
    silent = system(service=failed | {"StatusText": ""}, failures=failures)
    expect(silent, "state", "error", "is failed (resources): Permission denied. See journalctl")
    expect(system(service={"ActiveState": "inactive", "StatusText": ""}, failures=failures), "state", "ok", "inactive")
    what = "app.socket is failed (resources): its port is closed"
    expect(
        system(socket=failed, failures=failures), "port", "error", f"{what}: Address already in use. Correct that; then"
    )
    expect(system(socket=failed), "port", "error", f"{what}. systemctl enable --now app.socket")


@pytest.mark.parametrize("unit_name", ["relay", "watchdog"])
def test_masked_helper(unit_name: str) -> None:
    check = {"relay": "relay", "watchdog": "watchdog relay"}[unit_name]
    expect(system(**{unit_name: {"LoadState": "masked"}}), check, "error", "masked")
    finding = CHECKS[check](system(**{unit_name: {"LoadState": "masked"}}))
    assert finding is not None
    assert finding.remedy.startswith("systemctl unmask app-")


def test_a_command_that_other_users_can_change(tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python3"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    tmp_path.chmod(0o777)
    for command in ((python,), (Path("/bin/sh"), python)):
        expect(system(command=command), "command", "error", f"and so {python}, which root is running")
    expect(
        system(command=(Path("/bin/sh"), Path("/none.zip/module.py"))),
        "command",
        "ok",
        "root can change /bin/sh and its modules",
    )
    assert CHECKS["command"](system(command=())) is None


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], ""),
        ([("app.service", 6, "Starting")], "Starting"),
        ([("init.scope", 6, "Starting"), ("init.scope", 4, "app.service: Main process exited")], ""),
        ([("init.scope", 3, "app.service: Failed to listen: Address already in use")], "Failed to listen: Address al"),
        (
            [("app.service", 3, "app.service: Changing to the folder failed"), ("app.service", 3, "b")],
            "Changing to the",
        ),
        ([("app.service", 6, "Traceback"), ("app.service", 6, "KeyError: 1"), ("init.scope", 3, "c")], "KeyError: 1"),
        ([("app.service", 6, "a"), ("app.service", 3, "\x1b[31mb"), ("app.service", 6, "c")], "?[31mb"),
        ([("app.service", 3, "x" * 4000)], "x" * 300),
        ([("app.service", 6, "KeyError: 1"), ("app.service", 3, "RELAY")], "KeyError: 1"),
        ([("app.service", 3, [120, 121]), ("app.service", 3, None), ("app.service", 3, " ")], ""),
    ],
)
def test_the_reason_of_a_failed_start(
    entries: list[tuple[str, int, Any]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {
            "_SYSTEMD_UNIT": of,
            "PRIORITY": str(level),
            "MESSAGE": text,
            "SYSLOG_IDENTIFIER": "(relay)" if text == "RELAY" else "gunicorn",
        }
        for of, level, text in entries
    ]
    job = {"_SYSTEMD_UNIT": "init.scope", "PRIORITY": "3", "MESSAGE": "Failed to start", "JOB_RESULT": "failed"}
    text = "\n".join(["no JSON", "1", *map(json.dumps, (*lines, job))])
    asked: list[str] = []

    def head(command: list[str], **_how: Any) -> str:
        asked.extend(command)
        return text

    monkeypatch.setattr(bounded, "head", head)
    found = unit_journal.start_failure(Unit("app.service", {"InvocationID": ("1a",)}), Manager(user=False))
    assert found.startswith(why)
    assert len(found) <= 300
    assert bool(found) == bool(why)
    assert {"_SYSTEMD_INVOCATION_ID=1a", "INVOCATION_ID=1a", "_PID=1"} <= set(asked)
    asked.clear()
    assert unit_journal.start_failure(Unit("app.service", {}), Manager(user=False)) == ""
    assert asked == []


def test_a_missing_relay() -> None:
    away = system(
        service={"ExecReloadEx": "", "ExecStopPostEx": ""},
        relay={"ExecStopEx": command("stop app.service", path="/nowhere/relay")},
    )
    expect(away, "relay permissions", "error", "/nowhere/relay cannot be run: No such file or directory")
    assert CHECKS["relay version"](away) is None
    line = command("start-pre app.service", "yes", "/elsewhere/relay").replace("flags=", "ignore_errors=")
    before = {"ExecStartPre": line}
    steps: Changes = {"ExecReloadEx": "", "ExecStopPostEx": ""}
    expect(
        replace(system(steps, before, {"ExecStopEx": ""}), watchdog_service=Unit("", {})),
        "relay permissions",
        "error",
        "/elsewhere/relay cannot be run",
    )


def test_relay_in_a_folder_of_another_user(tmp_path: Path) -> None:
    """A sticky folder does not help: owners can move its entries."""
    relay = tmp_path / "relay"
    relay.write_bytes(resources.files("flask_socketact.handover").joinpath("relay").read_bytes())
    relay.chmod(0o755)
    tmp_path.chmod(0o777)
    link = tmp_path / "link" / "relay"
    link.parent.mkdir()
    link.symlink_to("../relay")
    for path in (relay, link):
        only = {"ExecStopEx": (command("stop app.service", path=str(path)),)}
        nothing = Unit("app.service", {})
        called = replace(
            system(), service=nothing, sockets=(), relay=Unit("app-relay.service", only), watchdog_service=nothing
        )
        expect(called, "relay permissions", "error", "users other than root can change")
        expect(called, "relay version", "ok", "from this version")
        expect(replace(called, user_manager=True), "relay permissions", "ok", "is executable")
    relay.write_text("#!/bin/sh\n")
    expect(called, "relay version", "warning", "not from this version")
    relay.chmod(0o644)
    expect(replace(called, user_manager=True), "relay permissions", "error", "is not executable")


@pytest.mark.parametrize(
    ("mode", "owner", "changeable"),
    [
        (stat.S_IFREG | 0o755, 0, False),
        (stat.S_IFDIR | 0o700, 0, False),
        (stat.S_IFREG | 0o666, 0, True),
        (stat.S_IFREG | 0o775, 0, True),
        (stat.S_IFDIR | 0o1777, 0, True),
        (stat.S_IFREG | 0o555, 1000, True),
    ],
)
def test_users_other_than_root_that_can_change_a_file(mode: int, owner: int, changeable: bool) -> None:
    assert is_changeable(os.stat_result((mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))) == changeable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1min 15s", 75),
        ("90s", 90),
        ("100ms", 0.1),
        ("2.500ms", 0.0025),
        ("1.500000s", 1.5),
        ("250us", 0.00025),
        ("1h 1min", 3660),
        ("1w 2d 3h 4min 5.006007s", 788645.006007),
        ("3y 2month 1h 30min", 3 * 31557600 + 2 * 2629800 + 5400),
        ("infinity", math.inf),
    ],
)
def test_time_span(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "-1s", "5fortnights", "1min,2s", "[not set]", "nan"])
def test_what_is_no_time_span(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time span"):
        parse_span(text)


def test_commands() -> None:
    found = unit("app.service", SERVICE, {"ExecStopEx": (command("a", "ignore-failure privileged"), KILL)}).commands(
        "ExecStopEx"
    )
    assert [each.path for each in found] == [RELAY, "/bin/sh"]
    assert found[0].text == f"{RELAY} a"
    assert found[0].flags == {"ignore-failure", "privileged"}
    assert found[1].text == f"/bin/sh -c {TERM}"
    assert parse_command(command("x", "")).flags == frozenset()
    with pytest.raises(ValueError, match="is not a command"):
        parse_command("/bin/true")


def test_properties_with_line_breaks() -> None:
    """A command is printed as it is, even if it is a program of several lines."""
    found = parse_properties(f"User=app\nExecStopEx={command('a', path='/bin/sh')[:-9]}\n+ x\n\nA=1\nA=2\nB=c=d\n")
    assert found["User"] == ("app",)
    assert found["A"] == ("1", "2")
    assert found["B"] == ("c=d",)
    assert len(found) == 4


@pytest.mark.parametrize("name", ["app", "app.service", "my-app_2", "app@eu.service", r"a\x2db", "a.b:c"])
def test_names(name: str) -> None:
    assert parse_name(name) == name.removesuffix(".service")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "--all",
        "a*",
        "a?",
        "[a]",
        "a b",
        "a\n",
        "../a",
        "/etc/a",
        "app.socket",
        "app@",
        "app@.service",
        "ä",
        "$a",
        "a" * 300,
    ],
)
def test_what_is_no_name(name: str) -> None:
    done = CliRunner().invoke(main, ["doctor", "--", name])
    assert done.exit_code == 2
    assert "is not the name of a service" in done.output


MIXED = [("a", ok("1")), ("b", error("2", "Do it")), ("c", ok("3")), ("d", warning("4", "Do that"))]


@pytest.mark.parametrize(
    ("findings", "quiet", "lines"),
    [
        (
            MIXED,
            False,
            [
                "ok       a: 1",
                "ok       c: 3",
                "warning  d: 4. Do that",
                "error    b: 2. Do it",
                "1 error, 1 warning, 2 checks are ok",
            ],
        ),
        (MIXED, True, ["warning  d: 4. Do that", "error    b: 2. Do it"]),
        (
            MIXED[:1] + MIXED[3:] * 2,
            False,
            ["ok       a: 1", *["warning  d: 4. Do that"] * 2, "2 warnings, 1 check is ok"],
        ),
        ([MIXED[0], MIXED[2]], False, ["ok       a: 1", "ok       c: 3", "All 2 checks are ok"]),
        ([MIXED[0]], True, []),
    ],
)
def test_output_ends_with_errors_and_a_summary(
    findings: list[tuple[str, Finding]], quiet: bool, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show(findings, quiet=quiet)
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(("name", "colors"), [("FORCE_COLOR", True), ("NO_COLOR", False), ("NONE", False)])
def test_colors(name: str, colors: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes FORCE_COLOR for a terminal."""
    for variable in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    if name == "NO_COLOR":
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm")
    show([("b", error("[2]", "Do it"))], quiet=True)
    printed = capsys.readouterr().out
    assert ("\x1b[31merror\x1b[0m    b: [2]. Do it" in printed) == colors
    assert "31m" in printed or not colors


def test_a_service_that_does_not_exist() -> None:
    """One line, and exit status 3, also without systemd."""
    for command in ("doctor", "status"):
        done = CliRunner().invoke(main, [command, "no-such-service"])
        assert (done.exit_code, done.stdout) == (3, "")
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        with_json = CliRunner().invoke(main, [command, "no-such-service", "--json"])
        assert (with_json.exit_code, with_json.stderr) == (3, done.stderr)
        assert f"Error: {json.loads(with_json.stdout)['error']}\n" == done.stderr


ANSWER = vars(SETTINGS)
NO_NUMBERS: list[Any] = [-1, 2**31, 10**4000, 1.5, "30", None, [], math.inf, math.nan]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[" * 500_000,
        "[]",
        "null",
        '{"graceful_timeout": 1}',
        *(
            json.dumps(ANSWER | {key: value})
            for key in ("graceful_timeout", "worker_connections", "workers", "threads")
            for value in NO_NUMBERS
        ),
    ],
    ids=lambda answer: answer[:20],
)
def test_malformed_settings(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_settings, "_user", lambda *_, **__: None)
    monkeypatch.setattr(service_settings, "_command", lambda *_: None)
    monkeypatch.setattr(service_settings, "_run", lambda *_: answer)
    with pytest.raises(UnreadError, match="did not print its settings"):
        read_settings(Manager(user=False), unit("app.service", SERVICE, {}))
    monkeypatch.setattr(service_settings, "_run", lambda *_: json.dumps(ANSWER))
    assert read_settings(Manager(user=False), unit("app.service", SERVICE, {})) == SETTINGS


DATA = replace(SETTINGS, data=("instance/", "shop.db", "uploads/"))


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "warning", "and not to its data: /srv/app/instance/, /srv/app/shop.db and /srv/app/uploads/. Set Read"),
        ({}, "warning", "Set ReadWritePaths=/srv/app (systemctl edit app.service), or move the data to /var/lib/app"),
        ({"StateDirectory": ""}, "warning", "Set ReadWritePaths=/srv/app (systemctl edit app.service)"),
        ({"ReadWritePaths": "/srv/app/instance"}, "warning", "data: /srv/app/shop.db and /srv/app/uploads/. Set Re"),
        ({"ReadWritePaths": "/srv/app/"}, "ok", "/srv/app"),
        ({"ReadWritePaths": "/srv"}, "ok", "may write to"),
        ({"BindPaths": "/data:/srv/app:rbind"}, "ok", "/srv/app"),
        ({"WorkingDirectory": "~"}, "ok", "may write to"),
        ({"ProtectSystem": "no"}, "ok", "ProtectSystem=no"),
    ],
)
def test_data_below_the_application(changes: Changes, verdict: str, words: str) -> None:
    expect(system(service=changes, settings=DATA), "sandbox", verdict, words)


def test_a_folder_of_data() -> None:
    found = system(settings=replace(SETTINGS, data=("instance/", "uploads/")))
    expect(found, "sandbox", "warning", "Set ReadWritePaths=/srv/app/instance /srv/app/uploads (systemctl edit app.")


def test_data_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's user may print anything."""
    names = ["uploads/", "my shop.db", "../etc/", "/etc/", "..", "a/b", "x\ny", "x=y/", "a b/", 7, *("x" * 200)]
    answer = json.dumps(ANSWER | {"data": names})
    monkeypatch.setattr(service_settings, "_user", lambda *_, **__: None)
    monkeypatch.setattr(service_settings, "_command", lambda *_: None)
    monkeypatch.setattr(service_settings, "_run", lambda *_: answer)
    found = read_settings(Manager(user=False), unit("app.service", SERVICE, {})).data
    assert found[:3] == ("uploads/", "my shop.db", "7")
    assert set(found[3:]) == {"x"}
    assert len(found) < 100


def test_output() -> None:
    assert as_line("port", ok("8000")) == "ok       port: 8000"
    assert as_line("port", error("it is closed", "Open it")) == "error    port: it is closed. Open it"
    assert as_line("port", error("\x1b[31m\na", "\u202eb")) == "error    port: ?[31m?a. ?b"
    assert as_object("port", warning("w", "r")) == {"check": "port", "verdict": "warning", "found": "w", "remedy": "r"}


def test_command_imports_no_server() -> None:
    code = "import sys, flask_socketact.cli; sys.exit(' '.join({'flask', 'gunicorn', 'gevent'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("owner", "group", "mode", "allowed"),
    [
        (1000, 0, 0o600, True),
        (1000, 0, 0o466, False),
        (0, 100, 0o660, True),
        (0, 101, 0o660, True),
        (0, 100, 0o606, False),
        (0, 0, 0o660, False),
        (0, 0, 0o662, True),
    ],
)
def test_permissions_of_an_account(owner: int, group: int, mode: int, allowed: bool) -> None:
    account = Account("app", 1000, 100, frozenset({100, 101}), "/srv/app", "/bin/sh")
    assert account.may_write(owner, group, mode) == allowed
    assert replace(account, uid=0).may_write(owner, group, mode)


def test_environment(tmp_path: Path) -> None:
    (tmp_path / "1.env").write_text("# A=0\n; A=0\nA=b c\nB=' d '\nC = \"x\\\"y\"\nD=1 \\\n2\nbroken\nE='\n")
    account = Account("app", 1000, 100, frozenset({100}), "/home/app", "/bin/sh")
    files = [(f"{tmp_path}/*.env", False), (f"{tmp_path}/none", True)]
    service = unit("app.service", SERVICE, {"StateDirectory": "app app/more"})
    found = environment(service, account, ["A=a", "Z=a=b"], files, user_manager=False)
    assert found["A"] == "b c"
    assert found["B"] == " d "
    assert found["C"] == 'x"y'
    assert found["D"] == "1 2"
    assert found["E"] == "'"
    assert found["Z"] == "a=b"
    assert found["HOME"] == "/home/app"
    assert found["STATE_DIRECTORY"] == "/var/lib/app:/var/lib/app/more"
    assert "CACHE_DIRECTORY" not in found
    with pytest.raises(FileNotFoundError):
        environment(service, account, [], [(f"{tmp_path}/none", False)], user_manager=False)
    assert parse_environment("") == {}


def test_variables_of_a_command() -> None:
    variables = {"A": "b  c", "B": "'d e' f", "EMPTY": ""}
    words = ["$A", "${A}", "x${A}y", "$$A", "$EMPTY", "${EMPTY}", "$NONE", "$B", "a$A", "${B"]
    assert expand(words, variables) == ["b", "c", "b  c", "xb  cy", "$A", "", "d e", "f", "a$A", "${B"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\r\n\u202eü") == "a?[31mb????ü"


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("#!{folder}/python3", "named"),
        ("#! {folder}/python3 -s", "named"),
        ("#!/usr/bin/env -S {folder}/python3", "named"),
        ("#!/bin/sh", "beside"),
        ("import sys", "beside"),
        ("", "beside"),
    ],
)
def test_python_of_a_gunicorn_command(tmp_path: Path, line: str, python: str) -> None:
    """With a path that is too long or has spaces, pip makes the command a script of the shell."""
    for name in ("named", "beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python3").write_text(f"#!/bin/sh\necho {name} $@\n")
        (tmp_path / name / "python3").chmod(0o755)
    gunicorn = tmp_path / "beside/gunicorn"
    gunicorn.write_text(line.format(folder=tmp_path / "named") + "\n")
    words = ("sh", "-c", START, "sh", gunicorn, tmp_path / "beside/python3", "source", "question")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == python
    assert done.stdout.endswith(" -c source question\n")


def ask(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program that reads settings with a service's Python."""
    source = resources.files("flask_socketact.cli.doctor").joinpath("read_settings.py").read_text()
    question = json.dumps(
        {"argv": ["/bin/gunicorn", *words], "directory": str(folder), "path": "/bin", "program": "/bin/sh"}
    )
    command = [sys.executable, "-B", "-c", source, question]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=os.environ | variables)


def test_settings_are_read_without_the_application(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError\n")
    (package / "web.py").write_text("raise AssertionError\n")
    (tmp_path / "conf.py").write_text("from flask_socketact.conf import *\nprint('noise')\nthreads = 7\nworkers = 3\n")
    done = ask(
        tmp_path, "-c", "conf.py", "--threads", "8", "package.web:app", GUNICORN_CMD_ARGS="--graceful-timeout 99"
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "graceful_timeout": 99,
        "worker_connections": 10000,
        "workers": 3,
        "threads": 8,
        "worker_class": "flask_socketact.workers.thread.ThreadWorker",
        "our_worker": True,
        "our_master": True,
        "app": "package.web:app",
        "found": True,
        "file": f"{package}/web.py",
        "readable": True,
        "data": [],
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("app:app",), {"our_master": False, "our_worker": False, "found": False}),
        (("--chdir", "below", "app:app"), {"found": True, "our_master": False}),
        (("--pythonpath", "below", "app"), {"found": True}),
        (("below.app:app",), {"found": True}),
        (("below.app.more:app",), {"found": False}),
        (("below.none:app",), {"found": False}),
        (("none.app:app",), {"found": False}),
        (("below:app",), {"found": True, "file": None, "readable": True}),
        (("-k", "flask_socketact.workers.sync.SyncWorker", "a:app"), {"our_worker": True}),
        (("-c", "python:flask_socketact.conf", "-k", "gevent", "a:app"), {"our_master": True, "our_worker": False}),
        (
            ("-c", "python:flask_socketact.conf", "-k", "flask_socketact.workers.sync.SyncWorker", "a:app"),
            {"our_worker": True, "threads": 1},
        ),
    ],
)
def test_settings(tmp_path: Path, words: tuple[str, ...], expected: dict[str, Any]) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/app.py").touch()
    done = ask(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]).items() >= expected.items()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("-c", "none.py", "app:app"), "Error: 'none.py' doesn't exist"),
        (("--graceful-timeout", "soon", "app:app"), "invalid int value: 'soon'"),
        ((), "Error: No application module specified."),
    ],
)
def test_settings_that_cannot_be_read(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    done = ask(tmp_path, *words)
    assert done.returncode != 0
    assert line in done.stderr
    assert line not in ask(tmp_path / "none", *words).stderr
    assert ask(tmp_path / "none", *words).stderr.splitlines()[-1].startswith("FileNotFoundError: ")


def test_a_variable_that_makes_gunicorn_fail_with_a_traceback(tmp_path: Path) -> None:
    done = ask(tmp_path, "app:app", WEB_CONCURRENCY="abc")
    assert done.stderr == "WEB_CONCURRENCY='abc' is not a number: gunicorn cannot start\n"
    assert done.returncode == 1


def test_versions_outside_the_requirements(tmp_path: Path) -> None:
    """As in a virtual environment where an older gunicorn was installed later."""
    folder = tmp_path / "flask_socketact-0.1.0.dist-info"
    folder.mkdir()
    needs = "Requires-Dist: flask>=3.0\nRequires-Dist: gunicorn>=999\nRequires-Dist: none-such; extra == 'none'\n"
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flask-socketact\nVersion: 0.1.0\n{needs}")
    done = ask(tmp_path, "app:app", PYTHONPATH=str(tmp_path))
    assert done.stderr.startswith("gunicorn ")
    assert done.stderr.endswith(" is installed, but flask-socketact needs gunicorn>=999\n")
    assert done.returncode == 1


def test_finding_is_one_line() -> None:
    for spoilt in (system(), system(sockets=()), system(settings=Finding(Verdict.ERROR, "e", "r"))):
        for check, finding in run(spoilt):
            assert "\n" not in as_line(check, finding)
