"""The share of a canary when the deploy is cut off or the disk is full, with a fake service and an agent that asks."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_socketact import files
from flask_socketact.cli.deploy import health_watch, rollback
from flask_socketact.cli.deploy.record import Record
from flask_socketact.cli.deploy.service import Counts
from flask_socketact.cli.deploy.steps import Deployment
from flask_socketact.cli.lb import agent, state
from flask_socketact.cli.lb.agent import Agent
from flask_socketact.errors import LeftBrokenError, NotBegunError, NotDeployedError
from tests.unit.cli.test_deployment_steps import Site, Told, current, wanted

SMALL = 10


class Setup:
    """A service whose release 1 runs, by a relative link, with its full share."""

    def __init__(self, folder: Path) -> None:
        (folder / "current").symlink_to("releases/1")
        (folder / "state").mkdir()
        self.site = Site(folder)
        self.record = Record(folder / "state", "app")
        self.report = Told()

    def deploy(self, name: str = "2", what: str = "good", canary: int | None = SMALL) -> None:
        plan = dataclasses.replace(wanted(self.site.release(name, what)), canary=canary)
        Deployment(self.site, self.record, plan, self.report).run()

    def set(self, weight: int) -> None:
        state.write("app", weight, user_manager=False)

    @property
    def now(self) -> tuple[str, int | None]:
        """The release in place, and the share."""
        return Path(current(self.site)).name, state.read("app", user_manager=False).weight


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(rollback, "TIMEOUT", 0.1)
    monkeypatch.setattr(health_watch, "INTERVAL", 0.01)
    monkeypatch.setattr(state, "_FOLDERS", {False: str(tmp_path / "state")})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    asking = Agent("app", "app-agent.socket", ("10.0.0.5:8001",), is_listening=True, asked=1)
    monkeypatch.setattr(agent, "find", lambda *_: asking)
    monkeypatch.setattr(agent, "wait_until_asked", lambda *_: None)
    return Setup(tmp_path)


def killed(setup: Setup, monkeypatch: pytest.MonkeyPatch, where: object, name: str, what: str = "good") -> None:
    """Deploy release 2 as a canary, and be killed before a function is called."""

    def kill(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(where, name, kill)
        with pytest.raises(SystemExit):
            setup.deploy("2", what)
    assert setup.record.read() is not None


@pytest.mark.parametrize("before", [None, state.READY])
def test_a_good_canary_and_a_bad_one(setup: Setup, before: int | None) -> None:
    if before is not None:
        setup.set(before)
    setup.deploy("2")
    assert setup.now == ("2", state.READY)
    with pytest.raises(NotDeployedError):
        setup.deploy("3", "bad")
    assert setup.now == ("2", state.READY)
    assert "Drained: HAProxy sends no new requests" in setup.report.steps
    assert setup.record.read() is None


@pytest.mark.parametrize(("judged", "passes"), [(19, False), (20, True)])
def test_a_canary_that_few_clients_have_used_is_inconclusive(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, judged: int, passes: bool
) -> None:
    monkeypatch.setattr(setup.site, "counts", lambda: Counts(judged, 0))
    health = dataclasses.replace(wanted(None).health, responses=20)
    plan = dataclasses.replace(wanted(setup.site.folder / "releases/2"), canary=SMALL, health=health)
    deployment = Deployment(setup.site, setup.record, plan, setup.report)
    if passes:
        deployment.run()
    else:
        with pytest.raises(NotDeployedError, match=r"^inconclusive: clients got 19 .* and 20 are needed: set a larger"):
            deployment.run()
    assert "watching for 0.02 s, and until clients have got 20 responses" in " ".join(setup.report.steps)
    assert (setup.now, setup.record.read()) == (("2" if passes else "1", state.READY), None)


def test_a_canary_whose_requests_cannot_be_counted_is_refused(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "is_counted", False)
    with pytest.raises(NotBegunError, match=r"counts of requests of app cannot be read, .*deploy without --canary"):
        setup.deploy("2")
    assert setup.now == ("1", None)


@pytest.mark.parametrize("canary", [None, SMALL])
@pytest.mark.parametrize(
    ("where", "name", "what", "left"),
    [
        (agent, "wait_until_asked", "good", ("1", SMALL)),
        (health_watch, "wait", "good", ("2", SMALL)),
        (Told, "failure", "bad", ("2", state.DRAINED)),
    ],
)
def test_the_next_deploy_restores_the_share(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    what: str,
    left: tuple[str, int],
    canary: int | None,
) -> None:
    """It was killed before the link was switched, while watching, and after the drain."""
    killed(setup, monkeypatch, where, name, what)
    assert setup.now == left
    setup.deploy("3", canary=canary)
    assert "HAProxy sends the full share again" in setup.report.steps
    assert setup.now == ("3", state.READY)


@pytest.mark.parametrize("what", ["good", "bad"])
def test_a_drain_by_an_administrator_stays(setup: Setup, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """After a deploy that was killed while it watched, or after it had drained the service itself."""
    where: tuple[object, str] = (health_watch, "wait") if what == "good" else (Told, "failure")
    killed(setup, monkeypatch, *where, what=what)
    setup.set(state.DRAINED)
    with pytest.raises(NotBegunError, match=r"\(drained, HAProxy sends no new requests\): deploy without --canary"):
        setup.deploy("3")
    assert setup.now == ("1", state.DRAINED)
    setup.deploy("3", canary=None)
    assert setup.now == ("3", state.DRAINED)


def test_a_share_stays_with_a_release_that_may_be_bad(setup: Setup) -> None:
    """The old release no longer starts."""
    setup.site.release("1", "broken")
    with pytest.raises(LeftBrokenError):
        setup.deploy("2", "bad")
    assert setup.now == ("1", state.DRAINED)
    assert setup.report.steps[-1].startswith(
        "app: drained, HAProxy sends no new requests; when the service is good, run"
    )


def _full(when: Callable[[int], bool]) -> Callable[..., None]:
    """Return a replacement of files.write on a disk that is full for some shares."""
    write = files.write

    def fail(path: Path, text: str, **how: object) -> None:
        if path.name == "app.share" and when(int(text.partition("%")[0])):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text, **how)  # type: ignore[arg-type]

    return fail


@pytest.mark.parametrize(
    ("full", "what", "error", "left", "words"),
    [
        (SMALL, "good", NotBegunError, ("1", None), "No space left on device: HAProxy is told the same as before"),
        (state.DRAINED, "bad", NotDeployedError, ("1", state.READY), "500 INTERNAL"),
        (state.READY, "bad", LeftBrokenError, ("1", state.DRAINED), "No space left on device: .* ready when that is"),
        (state.READY, "good", LeftBrokenError, ("2", SMALL), "2 is deployed, but .*No space left on device: "),
    ],
)
def test_a_full_disk(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    full: int,
    what: str,
    error: type[Exception],
    left: tuple[str, int | None],
    words: str,
) -> None:
    """The release that serves is right all the same, and the deploy has ended."""
    monkeypatch.setattr(files, "write", _full(lambda weight: weight == full))
    with pytest.raises(error, match=words):
        setup.deploy("2", what)
    assert (setup.now, setup.record.read()) == (left, None)
