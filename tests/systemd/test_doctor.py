"""``flask-socketact doctor`` for the example units, and for units and files with faults."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.machine import RELAY, Machine, drop_in, release

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

DOCTOR = "/srv/app/venv/bin/flask-socketact"
GUNICORN = "/srv/app/venv/bin/gunicorn -c python:flask_socketact.conf"
HELPERS = "/usr/local/lib/flask-socketact"
DROP_INS = "/etc/systemd/system/app.service.d"


def doctor(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return machine.run(DOCTOR, "doctor", *arguments, check=False)


@pytest.fixture
def patient(machine: Machine) -> Iterator[Machine]:
    """The machine; what a test changes is restored afterwards."""
    yield machine
    for unit in ("app.socket", "app-relay.service"):
        shutil.rmtree(machine.path(f"/etc/systemd/system/{unit}.d"), ignore_errors=True)
    machine.run("sh", "-c", f"chown root:root {HELPERS} && chmod 755 {HELPERS} /srv/app && rm -f {HELPERS}/relay")
    shutil.copy(RELAY, machine.path(HELPERS))
    machine.run("chmod", "644", "/srv/app/app.py")
    machine.run("chmod", "755", "/srv/app/venv/bin/gunicorn", "/srv/app/venv/bin")
    machine.run("chown", "--recursive", "root:root", "/srv/app")
    machine.run("rm", "-f", "/srv/app/gunicorn.conf.py", "/srv/app/odd.env")
    machine.systemctl("start", "dbus.socket")
    machine.systemctl("daemon-reload")


@pytest.mark.parametrize("service", ["app", "app-unix.service"])
def test_the_example_units_are_healthy(machine: Machine, service: str) -> None:
    """Running or not; ``doctor`` starts nothing and writes nothing."""
    for state in ("inactive", "active"):
        done = doctor(machine, service)
        assert (done.returncode, done.stderr) == (0, "")
        *lines, summary = done.stdout.splitlines()
        assert [line for line in lines if not line.startswith("ok ")] == []
        assert summary == f"All {len(lines)} checks are ok"
        assert doctor(machine, service, "--quiet").stdout == ""
        assert "app:app is in /srv/app/app.py" in done.stdout
        assert machine.show(service, "ActiveState") == state
        machine.systemctl("start", service)
    assert not machine.path("/srv/app/__pycache__").exists()


def test_json_has_all_findings(machine: Machine) -> None:
    done = doctor(machine, "app", "--json")
    assert done.returncode == 0
    findings = json.loads(done.stdout)
    assert {tuple(finding) for finding in findings} == {("check", "verdict", "found", "remedy")}
    assert {finding["verdict"] for finding in findings} == {"ok"}


Case = tuple[str, str, int, str]  #: unit, drop-in, exit status of doctor, and a line of its output

SPOILT: list[Case] = [
    ("app.service", "[Service]\nKillMode=mixed", 1, "error    kill mode: KillMode=mixed"),
    ("app.service", "[Service]\nTimeoutStopSec=20", 1, "error    drain time: TimeoutStopSec=20 s of app.service"),
    ("app.service", "[Service]\nTimeoutStopSec=60", 0, "warning  drain time: TimeoutStopSec=60 s of app.service"),
    ("app.service", "[Unit]\nStartLimitIntervalSec=10", 1, "error    start limit: app.service may start 5 times"),
    ("app.service", "[Service]\nType=exec\nNotifyAccess=none", 1, "error    readiness: Type=exec"),
    ("app.service", "[Service]\nNotifyAccess=all", 0, "warning  readiness: Type=notify, NotifyAccess=all"),
    ("app.service", "[Service]\nRestart=no", 1, "error    restart: Restart=no"),
    ("app.service", "[Service]\nRestartSec=0", 0, "warning  restart: Restart=on-failure, RestartSec=0"),
    ("app.service", "[Service]\nLimitNOFILE=512", 1, "error    descriptors: LimitNOFILE=512"),
    ("app.service", "[Service]\nLimitNOFILE=4096", 0, "warning  descriptors: LimitNOFILE=4096"),
    ("app.service", "[Service]\nSendSIGKILL=no", 0, "warning  final kill: SendSIGKILL=no"),
    ("app.service", "[Service]\nNonBlocking=no", 1, "error    non-blocking: NonBlocking=no"),
    ("app.service", "[Service]\nRemoveIPC=yes", 0, "warning  shared memory: RemoveIPC=yes"),
    (
        "app-relay.service",
        "[Service]\nExecStop=\nExecStop=/bin/true",
        1,
        "error    relay: there is no ExecStop=…/relay stop app.service",
    ),
    ("app.service", "[Service]\nExecStopPost=", 1, "error    watchdog relay: there is no ExecStopPost="),
    ("app.service", f"[Service]\nExecStop=-+{HELPERS}/relay stop %n", 1, "error    root: ExecStop=+"),
    ("app.service", "[Service]\nUser=nobody", 1, "error    mailbox access: nobody may not connect"),
    ("app.service", "[Service]\nUser=nobody-here", 1, "error    application: there is no user nobody-here"),
    ("app.service", "[Service]\nUser=root", 0, "warning  application: app.service runs as root"),
    ("app.service", "[Service]\nWorkingDirectory=/root", 1, "error    application: app cannot read gunicorn's"),
    ("app.service", "[Service]\nWorkingDirectory=/", 1, "error    application: the module of app:app does not exist"),
    ("app.service", "[Service]\nEnvironmentFile=/etc/none", 1, "error    application: EnvironmentFile=/etc/none"),
    (
        "app.service",
        "[Service]\nEnvironment=\"GUNICORN_CMD_ARGS=--access-logformat 'a b' --graceful-timeout 100\"",
        1,
        "error    drain time: TimeoutStopSec=75 s of app.service, graceful_timeout=100 s",
    ),
    (
        "app.service",
        "[Service]\nExecStart=\nExecStart=/srv/app/venv/bin/gunicorn app:app",
        1,
        "error    configuration: gunicorn's configuration does not import flask_socketact.conf",
    ),
    (
        "app.service",
        f"[Service]\nExecStart=\nExecStart={GUNICORN} -k sync app:app",
        1,
        "error    configuration: worker_class=",
    ),
    (
        "app.service",
        "[Service]\nEnvironment=ARGS='-w 3 --access-logformat x'\nExecStart=\n"
        f"ExecStart={GUNICORN.replace('gunicorn', 'python -m gunicorn', 1)} $ARGS --name 'a b' app:${{NO}}app",
        0,
        "ok       configuration: 3 workers with 4 threads each, ThreadWorker",
    ),
    ("app.socket", "[Socket]\nTriggerLimitIntervalSec=2", 1, "error    trigger limit: app.socket may start"),
    ("app.socket", "[Socket]\nFlushPending=yes", 1, "error    waiting connections: FlushPending=yes"),
    ("app.socket", "[Socket]\nAccept=yes", 1, "error    accept: Accept=yes in app.socket"),
    ("app.socket", "[Socket]\nBacklog=1000000", 0, "warning  backlog: Backlog=1000000 in app.socket is limited"),
    ("app.socket", "[Socket]\nListenSequentialPacket=@a", 1, "error    mailbox: there are 2 mailboxes"),
    ("app.socket", "[Socket]\nListenStream=\nListenStream=8000", 1, "error    mailbox: app.service has no mailbox"),
    ("app.socket", "[Socket]\nSocketUser=root", 1, "error    mailbox access: app may not connect"),
    ("app.socket", "[Socket]\nPrivateTmp=no", 1, "error    private /tmp: PrivateTmp=yes in app.service"),
]
#: Cases that change the findings of others.
ALONE = ("application", "configuration", "drain time")


def together() -> list[list[Case]]:
    """Combine independent cases, because each run of doctor takes some time."""
    groups: list[list[Case]] = []
    for case in SPOILT:
        check = check_of(case)
        fitting = (
            group for group in groups if check not in ALONE and not {check, *ALONE}.intersection(map(check_of, group))
        )
        group = next(fitting, None)
        if group is None:
            groups.append([case])
        else:
            group.append(case)
    return groups


def check_of(case: Case) -> str:
    """Return the name of the check that finds a case; without a mailbox, there is no access to check."""
    return case[3].split(maxsplit=1)[1].partition(":")[0].removesuffix(" access")


@pytest.mark.parametrize("cases", together(), ids=lambda cases: ", ".join(map(check_of, cases)))
def test_each_fault_in_the_units_is_found(patient: Machine, cases: list[Case]) -> None:
    for number, (unit, text, _, _) in enumerate(cases):
        drop_in(patient, unit, f"{text}\n", f"{number}.conf")
    done = doctor(patient, "app")
    lines = done.stdout.splitlines()
    assert [line for *_, line in cases if not any(each.startswith(line) for each in lines)] == [], done.stdout
    assert done.returncode == max(status for _, _, status, _ in cases)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        (
            f"chmod 666 {HELPERS}/relay",
            1,
            f"error    relay permissions: users other than root can change {HELPERS}/",
        ),
        (
            f"chown app {HELPERS}/relay",
            1,
            f"error    relay permissions: users other than root can change {HELPERS}/",
        ),
        (f"chmod 1777 {HELPERS}", 1, f"error    relay permissions: users other than root can change {HELPERS},"),
        (f"chown app {HELPERS}", 1, f"error    relay permissions: users other than root can change {HELPERS},"),
        (
            f"mv {HELPERS}/relay /tmp && ln -s /tmp/relay {HELPERS}",
            1,
            "error    relay permissions: users other than root can change /tmp,",
        ),
        (
            f"mkdir {DROP_INS}; echo >{DROP_INS}/a.conf; chown app {DROP_INS}; systemctl daemon-reload",
            1,
            f"error    relay permissions: users other than root can change {DROP_INS},",
        ),
        (f"ln -sf relay {HELPERS}/relay", 1, f"error    relay permissions: {HELPERS}/relay cannot be run: Too many"),
        (f"rm {HELPERS}/relay", 1, f"error    relay permissions: {HELPERS}/relay cannot be run: No such file"),
        (f"chmod 644 {HELPERS}/relay", 1, f"error    relay permissions: {HELPERS}/relay is not executable"),
        (f"echo >>{HELPERS}/relay", 0, f"warning  relay version: {HELPERS}/relay is not from this version"),
        ("chmod 700 /srv/app", 1, "error    application: app cannot read gunicorn's settings in /srv/app: sh: "),
        ("chmod 711 /srv/app", 1, "error    application: app cannot read gunicorn's settings in /srv/app: Permission"),
        (
            "chmod 600 /srv/app/app.py",
            1,
            "error    application: /srv/app/app.py, the module of app:app, cannot be read",
        ),
        ("chmod 644 /srv/app/venv/bin/gunicorn", 1, "error    application: app cannot read gunicorn's settings in"),
        (
            "chown app /srv/app",
            1,
            "error    command: users other than root can change /srv/app, and so /srv/app/venv/bin/python",
        ),
        (
            "mkdir /srv/app/venv/lib/python3*/site-packages/click/__pycache__ -p;"
            "chown app /srv/app/venv/lib/python3*/site-packages/click/__pycache__",
            1,
            "error    command: users other than root can change /srv/app/venv/lib/python",
        ),
        (
            "chmod 777 /srv/app/venv/bin",
            1,
            "error    command: users other than root can change /srv/app/venv/bin, and so",
        ),
        (
            "chown app /srv/app/venv/lib/python3*/site-packages/click",
            1,
            "error    command: users other than root can change",
        ),
        ("systemctl stop app.socket", 1, "error    port: app.socket is inactive"),
        ("systemctl stop dbus.socket dbus.service", 1, "error    D-Bus: D-Bus does not respond"),
        ("touch /etc/systemd/system/app.service", 0, "warning  unit files: app.service changed on disk"),
    ],
)
def test_each_fault_in_the_files_is_found(patient: Machine, command: str, status: int, line: str) -> None:
    patient.run("sh", "-c", command)
    done = doctor(patient, "app")
    assert any(each.startswith(line) for each in done.stdout.splitlines()), done.stdout + done.stderr
    assert done.returncode == status
    assert done.stderr == ""


def test_a_release_that_does_not_boot_is_found(patient: Machine) -> None:
    release(patient, "import nosuch\n")
    patient.systemctl("start", "app", check=False)
    done = doctor(patient, "app")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("error "))
    assert line.startswith(
        "error    state: app.service is activating (exit-code): Worker failed to boot. ModuleNotFound"
    )
    assert done.returncode == 1


def test_the_configuration_runs_as_the_user_of_the_service(patient: Machine) -> None:
    """A configuration is a program: it gets no privileges and no terminal, and its output cannot control ours."""
    conf = """
import os, sys
assert 0 not in (*os.getresuid(), *os.getresgid(), *os.getgroups())
assert not any(int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm")))
assert os.getsid(0) == os.getpid()
sys.exit("\\x1b[31mthat is it")
"""
    patient.path("/srv/app/gunicorn.conf.py").write_text(conf)
    drop_in(patient, "app.service", "[Service]\nExecStart=\nExecStart=/srv/app/venv/bin/gunicorn app:app\n")
    done = doctor(patient, "app")
    assert done.returncode == 1
    assert "app cannot read gunicorn's settings in /srv/app: ?[31mthat is it" in done.stdout


def test_the_configuration_leaves_no_process_behind(patient: Machine) -> None:
    """Nor more privileges than the service; it has the service's environment."""
    conf = """
import os, time
assert "NoNewPrivs:\\t1" in open("/proc/self/status").read()
assert os.environ["ODD"] == '$HOME %n "a" `b` \\\\ ${C} é'
if not os.fork():
    os.setsid()
    os.closerange(0, 100)
    open("/var/lib/app/daemon", "w").write(str(os.getpid()))
    os.execv("/bin/sleep", ["left-behind", "600"])
while not os.path.exists("/var/lib/app/daemon"):
    time.sleep(0.01)
time.sleep({sleep})
"""
    drop_in(
        patient,
        "app.service",
        "[Service]\nExecStart=\nExecStart=/srv/app/venv/bin/gunicorn app:app\nEnvironmentFile=/srv/app/odd.env\n",
    )
    patient.path("/srv/app/odd.env").write_text("ODD='$HOME %n \"a\" `b` \\ ${C} é'\n")
    patient.run("install", "--directory", "--owner=app", "/var/lib/app")
    for sleep, line in (("0", "error    configuration: gunicorn's configuration does not"), ("60", "timeout after")):
        patient.path("/srv/app/gunicorn.conf.py").write_text(conf.replace("{sleep}", sleep))
        assert line in doctor(patient, "app").stdout
        assert patient.run("cat", "/var/lib/app/daemon").stdout
        assert patient.run("pgrep", "--full", "left-behind", check=False).stdout == ""
        assert patient.systemctl("list-units", "--all", "--plain", "--no-legend", "flask-socketact-*").stdout == ""
        assert patient.run("sh", "-c", "ls /run | grep flask-socketact", check=False).stdout == ""
        patient.run("rm", "/var/lib/app/daemon")


@pytest.mark.parametrize(("user", "line"), [("app", "ok       drain time"), ("nobody", "warning  drain time")])
def test_another_user_than_root_can_run_doctor(machine: Machine, user: str, line: str) -> None:
    command = ("setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", DOCTOR, "doctor", "app")
    done = machine.run(*command, check=False)
    assert done.returncode == 0
    assert line in done.stdout
    assert ("Run flask-socketact doctor as root" in done.stdout) == (user == "nobody")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no-such-app", f"Error: there is no no-such-app.service. To see all services, type: {DOCTOR} list\n"),
        ("--user-manager app", "Error: systemctl: Failed to connect to "),
    ],
)
def test_a_service_that_does_not_exist_is_reported(machine: Machine, name: str, line: str) -> None:
    done = doctor(machine, *name.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
