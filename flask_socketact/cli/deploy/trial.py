"""Try a release before any client sees it: one worker, next to the service, with Unix sockets of its own.

It runs with the service's user, sandbox and environment. The link to the current release does not move: paths that lead
through it lead to the new release in the trial's units.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flask_socketact import files
from flask_socketact.cli import unit_journal
from flask_socketact.cli.deploy import health_watch, trial_unit
from flask_socketact.cli.deploy.health_watch import Baseline, Health
from flask_socketact.cli.deploy.service import Service
from flask_socketact.cli.deploy.trial_unit import Listener, Move, Place, Plan
from flask_socketact.errors import ManagerError, UnhealthyError, UntriedError
from flask_socketact.systemd.manager import Manager, call, complaint, runtime_root
from flask_socketact.systemd.unit import Unit

#: How long systemctl waits for the trial to stop: longer than SIGTERM and SIGKILL take. Seconds.
_STOP_SECONDS = 3.0 * trial_unit.STOP_SECONDS
#: Added to the time that a trial may take, before systemd ends it: for a deploy that was killed. Seconds.
_SPARE_SECONDS = 5.0


@dataclass(frozen=True)
class Switch:
    """A link, and the folder to which it is to lead."""

    link: Path
    release: Path


def run(service: Service, switch: Switch | None, health: Health, before: Baseline, timeout: float) -> None:
    """Start a trial, request the pages that responded well before, and stop it.

    :param switch: None: try the release in place
    :param timeout: until all pages respond well, in seconds
    :raises UntriedError: the release cannot be tried.
    :raises UnhealthyError: the trial did not start, or a page is bad.
    """
    manager = service.manager
    unit = manager.show(service.name, *trial_unit.PROPERTIES, "ActiveState", "Environment")
    listeners = [Listener(each["FileDescriptorName"], len(each.listens("Stream"))) for each in service.sockets]
    trial_unit.check(unit)
    if not listeners:
        raise UntriedError(f"{service.name} has no socket unit, and a second instance could not open its port")
    if not service.is_served:
        raise UntriedError(f"{service.name} is not active, so there is no old release that could serve on")
    place = _place(manager)
    seconds = timeout + health.seconds + _SPARE_SECONDS
    texts = trial_unit.render(unit, Plan(place, listeners, *_moves(unit, switch, manager), seconds))
    _remove_leftovers(place, unit.name, manager)
    with _written(place, texts, manager):
        _Trial(service, place, trial_unit.addresses(place, listeners)).run(health, before, timeout)


class _Trial:
    """A trial whose units are written."""

    def __init__(self, service: Service, place: Place, addresses: list[str]) -> None:
        self._service = service
        self._manager = service.manager
        self._place = place
        self._addresses = addresses
        self._began = int(time.time())

    def run(self, health: Health, before: Baseline, timeout: float) -> None:
        """Start it, and request the pages.

        :raises UnhealthyError: it did not start, or a page is bad.
        """
        deadline = time.monotonic() + timeout
        self._start(timeout)
        self._request(health, before, deadline)

    def _start(self, timeout: float) -> None:
        """Start it, and wait until it is ready.

        :raises UnhealthyError: it does not start.
        """
        try:
            done = call("systemctl", self._manager.option, "start", "--", self._place.service, seconds=timeout)
        except subprocess.TimeoutExpired:
            raise UnhealthyError(f"the trial did not start within {timeout:.0f} s{self._why()}") from None
        if done.returncode != 0:
            raise UnhealthyError(f"the trial did not start{self._why() or f': {complaint(done)}'}")

    def _request(self, health: Health, before: Baseline, deadline: float) -> None:
        """Request the pages until they are good: the first requests may come too early, as for a cache that is empty.

        :raises UnhealthyError: a page stays bad.
        """
        readyz = [
            new for new, old in zip(self._addresses, self._service.addresses, strict=True) if old in before.readyz
        ]
        ready_since: float | None = None
        while True:
            bad = self._service.request(health_watch.READYZ, readyz) if readyz else None
            if bad is None or bad.is_good:
                ready_since = ready_since or time.monotonic()
                bad = health_watch.bad_page(self._service, before, self._addresses)
            if bad is None:
                return
            if not self._manager.show(self._place.service, "ActiveState").is_active:
                raise UnhealthyError(f"the trial exited{self._why()}")
            now = time.monotonic()
            if now > deadline or (bad.status is not None and ready_since and now - ready_since > health.seconds):
                raise UnhealthyError(f"in the trial, {self._without_socket(bad.text)}{self._why()}")
            time.sleep(health_watch.INTERVAL)

    def _without_socket(self, text: str) -> str:
        """Return a result without the address of the trial's socket, which soon no longer exists."""
        for address in self._addresses:
            text = text.replace(f" at {address}", "")
        return text

    def _why(self) -> str:
        """Return the last error of the trial's journal, to end a sentence with."""
        why = unit_journal.last_error(self._place.service, self._began, user=self._manager.user)
        return f": {why}" if why else ""


def _place(manager: Manager) -> Place:
    runtime = runtime_root(user=manager.user)
    return Place(trial_unit.new_stem(), runtime / ("systemd/user" if manager.user else "systemd/system"), runtime)


def _moves(unit: Unit, switch: Switch | None, manager: Manager) -> tuple[list[Move], list[str]]:
    """Return the move of the link to the new release, and lines of ``[Service]`` for other paths that lead through it.

    These are in files that systemd does not read, such as the first line of a script: for them, the new release is
    mounted over the old one. A user who could replace a folder of the path would so have root mount any folder; and a
    user's manager cannot mount.

    :raises UntriedError: a path has characters with a meaning in units.
    """
    if switch is None:
        return [], []
    old = os.path.realpath(switch.link)
    for path in (str(switch.link), old, str(switch.release)):
        if not trial_unit.is_safe(path):
            raise UntriedError(f"{path} has characters with a meaning in units")
    moves = [Move(str(switch.link), str(switch.release))]
    if manager.user or not _may_mount(switch.release, Path(old)):
        return moves, []
    setting = "BindReadOnlyPaths" if unit["ProtectSystem"] == "strict" else "BindPaths"
    return moves, [f"{setting}={switch.release}:{old}"]


def _may_mount(new: Path, old: Path) -> bool:
    """Return whether a folder can be mounted over another, and no user can replace them."""
    is_apart = not new.is_relative_to(old) and not old.is_relative_to(new)
    return is_apart and old.is_dir() and _is_roots(new) and _is_roots(old)


def _is_roots(path: Path) -> bool:
    """Return whether only root can replace a folder: it owns all folders above, and no other user may write there."""
    found = [os.lstat(folder) for folder in path.parents]
    return all(each.st_uid == 0 and not each.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for each in found)


@contextmanager
def _written(place: Place, texts: dict[str, str], manager: Manager) -> Iterator[None]:
    """Write the units of a trial; at the end stop them, and remove what is left.

    :raises UntriedError: they cannot be written, or systemd does not load them.
    """
    try:
        _write(place, texts)
        state = manager.show(place.service, "LoadState")["LoadState"]
        if state != "loaded":
            raise UntriedError(f"systemd does not load a copy of the service ({state})")
        yield
    finally:
        _remove(place, manager)


def _write(place: Place, texts: dict[str, str]) -> None:
    """Write units. The service comes last: systemd must not load it without its drop-ins.

    :raises UntriedError: they cannot be written.
    """
    try:
        for name in sorted(texts, key=lambda name: name == place.service):
            path = place.units / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, texts[name])
    except OSError as error:
        raise UntriedError(f"{place.units} is not writable: {error.strerror}") from None


def _remove_leftovers(place: Place, service: str, manager: Manager) -> None:
    """Remove the trials of deploys of a service that were killed. The service's record must be locked.

    :raises ManagerError: systemd does not answer.
    """
    for path in place.units.glob(f"{trial_unit.PREFIX}*.service"):
        try:
            is_ours = files.read(path).startswith(trial_unit.title(service))
        except OSError:
            continue  # its own ExecStopPost= has removed it
        if is_ours:
            _remove(Place(path.stem, place.units, place.runtime), manager)


def _remove(place: Place, manager: Manager) -> None:
    """Stop a trial, and remove its files.

    :raises ManagerError: it does not stop.
    """
    try:
        call("systemctl", manager.option, "stop", "--", place.service, seconds=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ManagerError(f"{place.service} does not stop: see systemctl status {place.service}") from None
    finally:
        for kind in trial_unit.KINDS:
            for path in place.units.glob(f"{place.stem}{kind}"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(place.sockets, ignore_errors=True)
