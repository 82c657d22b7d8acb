"""``flask-socketact deploy`` tries a release before any client sees it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import deployed
from tests.support.deployed import CLI, GOOD, add_release, current, load, put_back, serving
from tests.support.machine import Machine, drop_in

OPTIONS = ("--healthy", "1", "--timeout", "30")
#: Adds a page, where a process tells what it is.
TELLS = """
import json, sys
@app.get('/self')
def tell_self():
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    kept = {key: status[key].split() for key in ('Uid', 'Groups', 'CapBnd', 'NoNewPrivs', 'Seccomp', 'Umask')}
    rights = {path: os.access(path, os.W_OK) for path in ('/srv/app', '/etc', '/tmp', os.environ['STATE_DIRECTORY'])}
    return {'status': kept, 'rights': rights, 'python': sys.executable, 'environment': dict(os.environ)}
def note(): open(os.environ['STATE_DIRECTORY'] + '/trial', 'w').write(app.test_client().get('/self').text)
if 'SOCKETACT_TRIAL' in os.environ: note()
"""


@pytest.fixture(scope="module")
def machine_of_module(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with deployed.booted(request.config.getoption("--tree")) as machine:
        yield machine


@pytest.fixture
def machine(machine_of_module: Machine) -> Iterator[Machine]:
    """The good release runs. A test leaves no trial behind."""
    machine_of_module.run("ln", "-sfn", "releases/good", "/srv/app/current")
    if not put_back(machine_of_module):
        machine_of_module.systemctl("restart", "app")
    yield machine_of_module
    assert trials(machine_of_module) == []


def trials(machine: Machine) -> list[str]:
    """Return the files and units of trials."""
    files = [*machine.path("/run").glob("*-trial-*"), *machine.path("/run/systemd/system").glob("*-trial-*")]
    units = machine.systemctl("list-units", "--all", "--plain", "--no-legend", "flask-socketact-trial-*").stdout
    return [*map(str, files), *units.splitlines()]


def deploy(machine: Machine, release: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = f"/srv/app/releases/{release}"
    return machine.run(CLI, "deploy", "app", "--release", path, *OPTIONS, *options, check=False)


@pytest.mark.parametrize(
    ("name", "why", "options"),
    [
        ("raises", "the trial did not start: Reason: Worker failed to boot. RuntimeError: no database", ()),
        ("answers-500", "in the trial, /: 500 INTERNAL SERVER ERROR", ("--reload",)),
        ("named-500", "in the trial, /prices: 500 INTERNAL SERVER ERROR: ZeroDivisionError: division by zero", ()),
        ("hangs", "the trial did not start within 5 s", ("--timeout", "5")),
    ],
)
def test_no_client_sees_a_bad_release(
    machine: Machine, name: str, why: str, options: tuple[str, ...], figure: Callable[[str], None]
) -> None:
    """The service is not restarted, and the link does not move."""
    if name == "named-500":
        machine.run("rm", "-rf", f"/srv/app/releases/{name}")
        add_release(machine, name, f"{GOOD}\n@app.get('/prices')\ndef prices(): return 1 / 0\n")
    before = (machine.show("app", "MainPID"), machine.path("/srv/app/current").lstat().st_ino)
    with load(machine) as seen:
        done = deploy(machine, name, "--page", "/", "--page", "/prices", *options)
    assert (done.returncode, done.stderr) == (1, f"Error: not deployed: {why}\n")
    assert done.stdout.splitlines()[-1] == "Nothing was changed: the old release serves"
    assert (machine.show("app", "MainPID"), machine.path("/srv/app/current").lstat().st_ino) == before
    assert put_back(machine)
    assert (seen.failures(), seen.closed_by_server) == ({}, 0)
    figure(f"{name}: {seen.requests} requests, 0 failed")


def test_a_good_release_is_tried_and_deployed(machine: Machine, figure: Callable[[str], None]) -> None:
    """Its own package and Python, too; as in the service."""
    machine.run("rm", "-rf", "/srv/app/releases/tells")
    add_release(machine, "tells", GOOD + TELLS)
    with load(machine) as seen:
        result = json.loads(deploy(machine, "tells", "--json").stdout)
    assert result["deployed"], result
    assert result["steps"][0] == "Trying /srv/app/releases/tells before any client sees it"
    assert result["steps"][1].startswith("The trial was good, and took ")
    assert (current(machine), serving(machine)) == ("/srv/app/releases/tells", "Release tells")
    assert (seen.failures(), seen.closed_by_server) == ({}, 0)
    told = json.loads(machine.path("/var/lib/app/trial").read_text())
    served = json.loads(machine.run("curl", "--silent", "http://127.0.0.1:8000/self").stdout)
    own, others = told.pop("environment"), served.pop("environment")
    assert told == served
    assert own.pop("SOCKETACT_TRIAL") == "yes"
    different = {key for key in own.keys() | others.keys() if own.get(key) != others.get(key)}
    assert different <= {
        *("PWD", "RUNTIME_DIRECTORY", "INVOCATION_ID", "SYSTEMD_EXEC_PID", "JOURNAL_STREAM", "WEB_CONCURRENCY"),
        *("SOCKETACT_LOAD_TIMEOUT", "MEMORY_PRESSURE_WATCH", "WATCHDOG_PID", "WATCHDOG_USEC", "NOTIFY_SOCKET"),
    }
    figure(f"{seen.requests} requests, 0 failed; {result['steps'][1]}")


def test_a_release_is_tried_with_its_own_environment(machine: Machine) -> None:
    """Its programs name the link in their first line, and its variables are in a file of its own."""
    for name in ("own-1", "own-2", "own-3"):
        machine.run("rm", "-rf", f"/srv/app/releases/{name}")
        add_release(machine, name, GOOD)
        folder = machine.path(f"/srv/app/releases/{name}")
        (folder / "variables").write_text(f"NAME_OF_RELEASE={name}\n")
        (folder / "bin").mkdir()
        (folder / "name").write_text(name)
        (folder / "interpreter").symlink_to("/srv/app/venv/bin/python3")
        script = "#!/srv/app/current/interpreter\nimport os\nos.environ['BY'] = open('/srv/app/current/name').read()\n"
        program = folder / "bin/gunicorn"
        program.write_text(f"{script}from gunicorn.app.wsgiapp import run\nrun()\n")
        program.chmod(0o755)
    wanted = "\nassert os.environ['NAME_OF_RELEASE'] == os.environ['BY'] == os.path.basename(os.getcwd())\n"
    (machine.path("/srv/app/releases/own-2/app.py")).write_text(GOOD + wanted)
    bad = wanted.replace("basename(os.getcwd())", "dirname('own-1/x')")
    (machine.path("/srv/app/releases/own-3/app.py")).write_text(GOOD + bad)
    find = "import gunicorn, os; print(os.path.dirname(os.path.dirname(gunicorn.__file__)))"
    packages = machine.run("/srv/app/venv/bin/python3", "-c", find).stdout.strip()
    text = (
        "[Service]\nEnvironmentFile=/srv/app/current/variables\nExecStart=\n"
        "ExecStart=/srv/app/current/bin/gunicorn -c python:flask_socketact.conf --pid /run/app-metrics/pid app:app\n"
        f"Environment=PYTHONPATH={packages}\n"
    )
    machine.run("ln", "-sfn", "releases/own-1", "/srv/app/current")
    drop_in(machine, "app.service", text)
    try:
        machine.systemctl("restart", "app")
        done = deploy(machine, "own-3")
        assert (done.returncode, "AssertionError" in done.stderr) == (1, True), done.stderr
        master = machine.show("app", "MainPID")
        assert machine.path("/run/app-metrics/pid").read_text().strip() == master
        done = deploy(machine, "own-2")
        assert "The trial was good" in done.stdout, done.stdout + done.stderr
    finally:
        machine.run("ln", "-sfn", "releases/good", "/srv/app/current")
        drop_in(machine, "app.service", "")


@pytest.mark.parametrize("how", ["INT", "KILL"])
def test_a_trial_never_outlives_the_deploy(machine: Machine, how: str) -> None:
    """After kill -9, systemd ends it, or the next deploy does."""
    options = ("--release", "/srv/app/releases/hangs", "--timeout", "30")
    with machine.start(CLI, "deploy", "app", *options) as process:
        machine.wait_for(lambda: "start" in "".join(trials(machine)), "the trial")
        assert "flask-socketact-trial" not in machine.run(CLI, "list").stdout
        status = json.loads(machine.run(CLI, "status", "app", "--json").stdout)
        assert len(status["workers"]) == 2
        machine.run("pkill", f"-{how}", "--full", "deploy app --release /srv/app/releases/hangs")
        assert process.wait() in ({3} if how != "KILL" else {-signal.SIGKILL, 137})
    assert (trials(machine) == []) == (how != "KILL")
    assert put_back(machine)
    if how == "KILL":
        done = machine.run(CLI, "deploy", "app", *OPTIONS)
        assert "The trial was good" in done.stdout


def test_systemd_ends_a_trial_whose_deploy_was_killed(machine: Machine) -> None:
    options = ("--release", "/srv/app/releases/not-ready", "--healthy", "1", "--timeout", "8")
    with machine.start(CLI, "deploy", "app", *options) as process:
        machine.wait_for(lambda: "running" in "".join(trials(machine)), "the trial")
        machine.run("pkill", "--signal", "KILL", "--full", "deploy app --release /srv/app/releases/not-ready")
        process.wait()
    machine.wait_for(lambda: trials(machine) == [], "the end of the trial")


def test_internal_listeners_are_tried(machine: Machine) -> None:
    """/readyz may be there alone."""
    text = "[Socket]\nListenStream=127.0.0.1:8001\nFileDescriptorName=admin\nService=app.service\n"
    machine.path("/etc/systemd/system/app-admin.socket").write_text(text)
    drop_in(machine, "app.service", "[Service]\nSockets=app-admin.socket\n")
    only = "@app.before_request\ndef only():\n    listener = request.environ['socketact.listener']\n"
    only += "    if (listener == 'admin') != (request.path == '/readyz'): return 'not here', 404\n"
    try:
        machine.systemctl("stop", "app.service")
        machine.systemctl("start", "app-admin.socket", "app.service")
        for name, check in (("internal", ""), ("internal-bad", deployed.BAD["not-ready"])):
            add_release(machine, name, GOOD + check + only)
        assert "The trial was good" in deploy(machine, "internal").stdout
        done = deploy(machine, "internal-bad", "--timeout", "8")
        assert (done.returncode, "in the trial, /readyz: 503" in done.stderr) == (1, True), done.stderr
    finally:
        machine.systemctl("stop", "app-admin.socket", "app.service", "app.socket")
        machine.path("/etc/systemd/system/app-admin.socket").unlink()
        drop_in(machine, "app.service", "")
        machine.systemctl("start", "app.socket")


def test_a_release_that_cannot_be_tried_is_deployed(machine: Machine) -> None:
    """The command says why."""
    add_release(machine, "with space", GOOD)
    done = deploy(machine, "with space")
    why = "No trial: /srv/app/releases/with space has characters with a meaning in units\n"
    assert (done.returncode, why in done.stdout) == (0, True), done.stdout + done.stderr
    drop_in(machine, "app.service", "[Service]\nEnvironment=SOCKETACT_OVERLAP=no\n")
    try:
        done = deploy(machine, "good")
        assert "No trial: old and new workers must not run at the same time (SOCKETACT_OVERLAP=no)\n" in done.stdout
    finally:
        drop_in(machine, "app.service", "")
    machine.systemctl("stop", "app.service")
    assert "No trial: app.service is not active" in deploy(machine, "good").stdout


def test_a_page_that_was_bad_before_may_be_bad(machine: Machine) -> None:
    """And the release in place is tried, too."""
    path = machine.path("/srv/app/releases/good/app.py")
    good = path.read_text()
    try:
        path.write_text(good + deployed.BAD["answers-500"])
        master = machine.show("app", "MainPID")
        done = machine.run(CLI, "deploy", "app", *OPTIONS, check=False)
        assert (done.returncode, "in the trial, /: 500" in done.stderr) == (1, True), done.stderr
        assert machine.show("app", "MainPID") == master
        machine.systemctl("restart", "app")
        done = machine.run(CLI, "deploy", "app", "--max-errors", "100", *OPTIONS)
        assert "The trial was good" in done.stdout
    finally:
        path.write_text(good)


def test_the_trial_of_a_dynamic_user_leaves_its_folders(machine: Machine) -> None:
    """systemd would give the service's folders to another user. The unit is a script that starts gunicorn."""
    script = machine.path("/usr/local/bin/start-dynamic")
    script.write_text("#!/bin/sh\nexec /srv/app/venv/bin/gunicorn -c python:flask_socketact.conf app:app\n")
    script.chmod(0o755)
    service = (
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nDynamicUser=yes\nNonBlocking=yes\n"
        "WorkingDirectory=/srv/app/current\nExecStart=/usr/local/bin/start-dynamic\n"
        "StateDirectory=%p\nRuntimeDirectory=%p-run\nEnvironment=STATE=%S/%p NAME=%n\nRestart=on-failure\n"
    )
    machine.path("/etc/systemd/system/dynamic.service").write_text(service)
    machine.path("/etc/systemd/system/dynamic.socket").write_text("[Socket]\nListenStream=127.0.0.1:8055\n")
    checks = "\nassert os.environ['NAME'] == 'dynamic.service'\nopen(os.environ['STATE'] + '/file', 'a').close()\n"
    for name in ("dynamic-1", "dynamic-2"):
        add_release(machine, name, GOOD + checks)
    machine.run("ln", "-sfn", "releases/dynamic-1", "/srv/app/current")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "dynamic.socket", "dynamic.service")
    owner = machine.path("/var/lib/private/dynamic/file").stat().st_uid
    path = "/srv/app/releases/dynamic-2"
    done = machine.run(CLI, "deploy", "dynamic", "--release", path, *OPTIONS)
    assert "The trial was good" in done.stdout, done.stdout + done.stderr
    assert machine.path("/var/lib/private/dynamic/file").stat().st_uid == owner
    assert Path(machine.path("/run/dynamic-run")).exists()
    machine.systemctl("stop", "dynamic.socket", "dynamic.service")
