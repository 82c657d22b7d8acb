"""The steps of a deploy, with a fake service: what is done and reported when something has changed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flask_socketact.cli import bounded, main, unit_journal
from flask_socketact.cli.deploy import health_watch, rollback, service
from flask_socketact.cli.deploy.health_watch import Health
from flask_socketact.cli.deploy.record import Record
from flask_socketact.cli.deploy.service import RELOAD, RESTART, Counts, Response, Service
from flask_socketact.cli.deploy.steps import Deployment, Wanted
from flask_socketact.errors import CommandError, LeftBrokenError, NotBegunError, NotDeployedError, ReleaseError
from flask_socketact.systemd.manager import Manager
from flask_socketact.systemd.unit import Unit

GOOD, BAD = Response(200, "/ at app: 200 OK"), Response(500, "/ at app: 500 INTERNAL SERVER ERROR")


class Site(Service):
    """A fake service whose releases are ``good``, ``bad`` (respond with 500) or ``broken`` (fail to start)."""

    def __init__(self, folder: Path) -> None:
        self.name = "app.service"
        self.own_requests = Counts()
        self.addresses = ["127.0.0.1:8000"]
        self.folder = folder
        self.runs = (folder / "current").resolve()  #: the release that runs
        self.commands: list[str] = []
        self.pid = 1
        self.stopped = False
        self.stopping = 0  #: number of times that it still reports to stop
        self.reloads = True
        self.when_restarted: Callable[[], object] = lambda: None
        self.when_requested: Callable[[], object] = lambda: None
        self.manager = Manager(user=False)
        for name in ("1", "2"):
            self.release(name)

    def release(self, name: str, what: str = "good") -> Path:
        folder = self.folder / "releases" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "what").write_text(what)
        return folder

    @property
    def main_pid(self) -> int:
        return self.pid

    @property
    def is_active(self) -> bool:
        return not self.stopped

    @property
    def is_stopped(self) -> bool:
        return self.stopped

    @property
    def is_stopping(self) -> bool:
        self.stopping -= 1
        self.stopped = self.stopped or self.stopping == 0
        return self.stopping > 0

    @property
    def is_served(self) -> bool:
        return True

    @property
    def overlaps(self) -> bool:
        return self.reloads

    @property
    def directory(self) -> Path:
        return self.folder / "current"

    def run(self, verb: str, seconds: float) -> None:  # noqa: ARG002
        self.commands.append(verb)
        self.stopped = False
        found = (self.folder / "current").resolve()
        if (found / "what").read_text() == "broken":
            raise CommandError(f"systemctl {verb}: no database")
        self.runs = found
        self.pid += 1
        self.when_restarted()

    def counts(self) -> Counts:
        return Counts()

    @property
    def is_counted(self) -> bool:
        return True

    def request(self, path: str, addresses: Sequence[str] = ()) -> Response:  # noqa: ARG002
        self.when_requested()
        return BAD if (self.runs / "what").read_text() == "bad" else GOOD


class Told:
    """The reported steps and failures."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.failures: list[str] = []

    def __call__(self, step: str) -> None:
        self.steps.append(step)

    def failure(self, reason: str) -> None:
        self.failures.append(reason)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A service whose release 1 runs, by a relative link."""
    monkeypatch.setattr(rollback, "TIMEOUT", 0.1)
    monkeypatch.setattr(health_watch, "INTERVAL", 0.01)
    (tmp_path / "current").symlink_to("releases/1")
    return Site(tmp_path)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "state", "app")


@pytest.fixture
def report() -> Told:
    return Told()


def wanted(release: Path | None, verb: str = RESTART) -> Wanted:
    return Wanted(release, verb, Health(("/",), 0.02, 0.05), 0.1, trial=False)


@pytest.fixture
def deploy(site: Site, record: Record, report: Told) -> Callable[..., None]:
    def run(release: Path | None = None, verb: str = RESTART) -> None:
        record._path.parent.mkdir(exist_ok=True)
        Deployment(site, record, wanted(release, verb), report).run()

    return run


Deploy = Callable[..., None]


def current(site: Site) -> str:
    return os.readlink(site.folder / "current")


def by_hand(site: Site, target: str) -> None:
    """Put a release in place as ``ln -sfn`` does."""
    (site.folder / "current").unlink()
    (site.folder / "current").symlink_to(target)


def cut_off(site: Site, record: Record, deploy: Deploy) -> None:
    """Deploy release 2, and be killed during the watch."""

    def kill() -> None:
        raise SystemExit

    site.when_restarted = kill
    with pytest.raises(SystemExit):
        deploy(site.folder / "releases/2")
    site.when_restarted = lambda: None
    assert record.read() is not None


def test_a_good_release_and_a_bad_one(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    deploy(site.folder / "releases/2")
    assert (current(site), site.runs.name) == (str(site.folder / "releases/2"), "2")
    with pytest.raises(NotDeployedError, match="500 INTERNAL"):
        deploy(site.release("3", "bad"))
    assert (current(site), site.runs.name) == (str(site.folder / "releases/2"), "2")
    assert report.steps[-1] == f"{site.folder}/releases/2 serves again"
    assert record.read() is None
    assert sorted(os.listdir(site.folder)) == ["current", "releases", "state"]


def test_a_killed_deploy_is_rolled_back(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    cut_off(site, record, deploy)
    deploy()
    assert report.steps[-2].endswith("was killed: rolling back to releases/1")
    assert (current(site), site.runs.name, record.read()) == ("releases/1", "1", None)


@pytest.mark.parametrize("target", ["2", "3"])
def test_a_link_made_by_hand_after_a_killed_deploy_stays(
    site: Site, record: Record, deploy: Deploy, report: Told, target: str
) -> None:
    """Also one to the same release: the administrator wants it."""
    cut_off(site, record, deploy)
    text = str(site.release(target))
    by_hand(site, text)
    deploy()
    link = site.folder / "current"
    assert any(
        step.endswith(f"was killed, and {link} is not the link that it made: the link keeps {text}")
        for step in report.steps
    )
    assert (current(site), record.read()) == (text, None)


def test_a_deploy_killed_during_its_rollback_is_rolled_back(site: Site, record: Record, deploy: Deploy) -> None:
    """The link leads to the old release again, but the new one runs."""
    site.release("2", "bad")
    calls = []

    def kill_the_second() -> None:
        calls.append(current(site))
        if len(calls) > 1:
            raise SystemExit

    site.when_restarted = kill_the_second
    with pytest.raises(SystemExit):
        deploy(site.folder / "releases/2")
    site.runs = site.folder / "releases/2"
    site.when_restarted = lambda: None
    deploy()
    assert (current(site), site.runs.name, record.read()) == ("releases/1", "1", None)


def test_a_link_made_by_hand_during_the_watch_stays(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    two, three = site.release("2", "bad"), site.release("3")
    site.when_restarted = lambda: by_hand(site, str(three))
    with pytest.raises(LeftBrokenError, match="/current is not the link that the deploy made, and was not changed: "):
        deploy(two)
    assert (current(site), site.commands, record.read()) == (str(three), ["restart"], None)
    assert len(report.failures) == 1


def test_an_old_release_that_no_longer_starts(site: Site, record: Record, deploy: Deploy) -> None:
    """The next deploy has nothing to repair."""
    two = site.release("2", "bad")
    site.release("1", "broken")
    with pytest.raises(LeftBrokenError, match="releases/1 does not start: systemctl restart: no database"):
        deploy(two)
    assert record.read() is None
    deploy(site.release("3"))
    assert site.runs.name == "3"


def test_a_failed_repair_does_not_stop_a_good_release(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    cut_off(site, record, deploy)
    site.release("1", "broken")
    deploy(site.release("3"))
    assert site.runs.name == "3"
    assert any(step.startswith("releases/1 does not start: ") for step in report.steps)


def test_a_failed_repair_without_a_release_is_an_error(site: Site, record: Record, deploy: Deploy) -> None:
    cut_off(site, record, deploy)
    site.release("1", "broken")
    with pytest.raises(LeftBrokenError, match="releases/1 does not start: "):
        deploy()
    assert record.read() is None


def test_an_old_release_that_responds_worse_than_before(site: Site, record: Record, deploy: Deploy) -> None:
    two = site.release("2", "bad")
    site.when_restarted = lambda: site.release("1", "bad")
    with pytest.raises(LeftBrokenError, match=r"^releases/1 is in place again, but does not respond as before: .* 500"):
        deploy(two)
    assert (current(site), record.read()) == ("releases/1", None)


def test_an_old_release_that_was_as_bad_before(site: Site, deploy: Deploy, report: Told) -> None:
    site.release("1", "bad")
    with pytest.raises(NotDeployedError):
        deploy(site.release("2", "broken"))
    assert report.steps[-1] == f"releases/1 is in place again; {BAD.text}"


def test_a_release_that_is_in_place_already(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    deploy(site.folder / "releases/1")
    text = f"{site.folder}/releases/1 is in place already: if it is bad, there is no release to roll back to"
    assert report.steps[0] == text
    site.when_restarted = lambda: site.release("1", "bad")
    with pytest.raises(LeftBrokenError, match="no other: deploy a good one"):
        deploy(site.folder / "releases/1")
    assert (current(site), record.read()) == ("releases/1", None)


def test_service_stopped_by_hand_stays_stopped(site: Site, record: Record, deploy: Deploy, report: Told) -> None:
    site.when_restarted = lambda: setattr(site, "stopped", True)
    text = "^app.service was stopped; releases/1 is in place again: start it with systemctl start app.service$"
    with pytest.raises(LeftBrokenError, match=text):
        deploy(site.folder / "releases/2")
    assert (current(site), site.commands, record.read()) == ("releases/1", ["restart"], None)
    assert report.failures == ["the service was stopped"]
    site.stopped = False
    with pytest.raises(LeftBrokenError, match=r"^app.service was stopped: start it with systemctl start app.service$"):
        deploy()
    assert site.commands == ["restart", "restart"]


def test_the_rollback_waits_for_a_stop(site: Site, deploy: Deploy) -> None:
    two = site.release("2", "bad")
    site.when_restarted = lambda: setattr(site, "stopping", 3)
    with pytest.raises(LeftBrokenError, match="was stopped; releases/1 is in place again"):
        deploy(two)
    assert site.commands == ["restart"]


@pytest.mark.parametrize(("name", "value"), [("reloads", False), ("stopped", True)])
def test_a_service_that_cannot_reload(site: Site, deploy: Deploy, name: str, value: bool) -> None:
    setattr(site, name, value)
    with pytest.raises(NotBegunError, match=r"^app\.service .*cannot reload.*: deploy without --reload$"):
        deploy(site.folder / "releases/2", RELOAD)
    assert (current(site), site.commands) == ("releases/1", [])


def test_a_link_that_cannot_be_switched(
    site: Site, record: Record, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", ".current.0123")

    for function in ("symlink", "rename"):
        with monkeypatch.context() as patch:
            if function == "symlink":
                patch.setattr(os, function, refuse)
            else:
                patch.setattr("flask_socketact.files.Folder.rename", refuse)
                patch.setattr(record, "begin", lambda _pending: None)
            with pytest.raises(ReleaseError, match=r"/current cannot be switched: Permission denied: make"):
                deploy(site.folder / "releases/2")
        assert (current(site), site.commands, record.read()) == ("releases/1", [], None)


@pytest.fixture
def command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run the command for the service, with --user-manager."""
    monkeypatch.setattr(service, "Service", lambda _name, _manager: site)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["deploy", "app", "--user-manager", "--no-trial", "--healthy", "1", *arguments])

    yield run
    for number, handler in before:
        signal.signal(number, handler)


def test_ctrl_c_before_anything_is_changed(site: Site, command: Callable[..., Result]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    site.when_requested = interrupt
    for arguments in ((), ("--release", str(site.folder / "releases/2"))):
        result = command(*arguments)
        assert (result.exit_code, result.output) == (3, "Error: interrupted before anything was changed\n")
    assert (current(site), site.commands) == ("releases/1", [])


def test_control_characters_do_not_reach_the_terminal(site: Site, command: Callable[..., Result]) -> None:
    """Neither from names of releases nor from the old target of the link."""
    bad = site.release("2\x1b]0;owned\x07", "broken")
    by_hand(site, "releases/../releases/1")
    site.release("\x1b[2Jold\udcff")
    by_hand(site, "releases/\x1b[2Jold\udcff")
    result = command("--release", str(bad))
    assert result.exit_code == 1
    assert "from releases/?[2Jold?\n" in result.output
    assert "releases/2?]0;owned?" in result.output
    assert result.output.replace("\n", "").isprintable()
    result = command("--json", "--release", str(bad))
    assert result.output.isascii()
    assert json.loads(result.output)["steps"][0].endswith("from releases/\x1b[2Jold\udcff")


class FakeManager(Manager):
    """A manager that knows one service."""

    def __init__(self, **properties: str) -> None:
        super().__init__(user=False)
        self.properties = {"LoadState": "loaded", "ActiveState": "active"} | properties

    def show(self, name: str, *_properties: str, **_options: float) -> Unit:
        values: Mapping[str, Sequence[str]] = {key: (value,) for key, value in self.properties.items()}
        return Unit(name, values)


def command_line(path: str, *words: str) -> str:
    return f"{{ path={path} ; argv[]={' '.join((path, *words))} ; ignore_errors=no ; start_time=[n/a] }}"


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"LoadState": "masked"}, "app.service is masked: run systemctl unmask app.service, then deploy again"),
        ({"LoadState": "bad-setting"}, r"app.service is not loaded \(bad-setting\): see systemctl status app.service"),
        ({"ExecStart": command_line("/usr/bin/dbus-daemon", "--system")}, "app.service does not run gunicorn"),
        ({"ExecStart": command_line("/srv/gunicorn/bin/nginx")}, "app.service does not run gunicorn"),
        ({}, "app.service does not run gunicorn"),
    ],
)
def test_units_that_are_not_deployed(properties: dict[str, str], why: str) -> None:
    with pytest.raises(NotBegunError, match=f"^{why}"):
        Service("app", FakeManager(**properties))


@pytest.mark.parametrize(
    "properties",
    [
        {"ExecStart": command_line("/srv/app/venv/bin/gunicorn", "app:app")},
        {"ExecStart": command_line("/usr/bin/python3", "-m", "gunicorn", "app:app")},
        {"ExecStart": command_line("/srv/app/start", "-c", "python:flask_socketact.conf")},
        {"ExecStart": command_line("/srv/app/start"), "Wants": "x.service app-relay.service"},
    ],
)
def test_units_that_are_deployed(properties: dict[str, str]) -> None:
    assert Service("app", FakeManager(**properties)).is_active


@pytest.mark.parametrize(
    ("properties", "is_stopped"),
    [
        ({"ActiveState": "inactive", "Result": "success", "ConditionResult": "yes"}, True),
        ({"ActiveState": "inactive", "Result": "success", "ConditionResult": "no"}, False),
        ({"ActiveState": "failed", "Result": "exit-code"}, False),
        ({"ActiveState": "activating", "Result": "success"}, False),
        ({"ActiveState": "active", "Result": "success"}, False),
    ],
)
def test_a_stopped_service_is_distinguished_from_a_failed_one(properties: dict[str, str], is_stopped: bool) -> None:
    gunicorn = command_line("/srv/app/venv/bin/gunicorn", "app:app")
    assert Service("app", FakeManager(ExecStart=gunicorn, **properties)).is_stopped == is_stopped


def records(*messages: object) -> str:
    return "".join(json.dumps({"MESSAGE": message}) + "\n" for message in messages)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("", ""),
        (records("Traceback:\n  line\nRuntimeError: no database\n"), "RuntimeError: no database"),
        (records("Worker (pid:42) exited with code 3.", "RuntimeError: no database"), "RuntimeError: no database"),
        (records("Worker (pid:42) exited with code 3."), ""),
        (
            records("Worker (pid:4) was sent SIGKILL! Perhaps out of memory?"),
            "Worker (pid:4) was sent SIGKILL! Perhaps",
        ),
        (records(None, ["a", "b"], " \n", [27, 91, 50, 74, 255]), "\x1b[2J�"),
        (records("x" * 20_000), "x" * 499 + "…"),
    ],
)
def test_the_reason_of_a_failure_is_read_from_the_journal(
    printed: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "head", lambda *_, **__: printed)
    found = unit_journal.last_error("app.service", 0, user=False)
    assert found.startswith(reason)
    assert len(found) <= 500
    assert bool(found) == bool(reason)
