"""Control groups of a service, and of the scopes that its old workers are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_socketact.systemd import cgroup
from tests.support.control_groups import SERVICE, SLICE, ControlGroups

NOBODY = 2**22 + 1  # no pid is so great


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    return ControlGroups(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("lines", "group"),
    [
        ("0::/system.slice/app.service", "/system.slice/app.service"),
        ("4:memory:/\n1:name=systemd:/system.slice/app.service\n0::/", "/system.slice/app.service"),
        ("1:name=systemd:/old\n0::/system.slice/app.service", "/system.slice/app.service"),
        ("1:name=systemd:/system.slice/app.service", "/system.slice/app.service"),
        ("0::/system.slice/a:b.service", "/system.slice/a:b.service"),
        ("0::/", "/"),
        ("4:memory:/docker", "/"),
    ],
    ids=["unified", "hybrid, legacy in use", "hybrid, unified in use", "legacy", "colon", "root", "without systemd"],
)
def test_the_group_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, group: str) -> None:
    monkeypatch.setattr(cgroup, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(f"{lines}\n")
    assert cgroup.of(7) == group


def test_a_process_that_has_exited_has_no_group() -> None:
    assert cgroup.of(NOBODY) is None
    assert cgroup.of(os.getpid()) is not None


def test_processes_of_a_group(groups: ControlGroups) -> None:
    groups.fill(SERVICE, [7, 8])
    assert cgroup.processes(SERVICE) == [7, 8]
    assert cgroup.processes(f"{SLICE}/other.service") == []


def test_the_first_hierarchy_that_has_the_group_counts(groups: ControlGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hybrid set-up, one of the two is empty."""
    monkeypatch.setattr(cgroup, "ROOTS", (groups.root / "unified", groups.root / "systemd"))
    groups.fill(f"/systemd{SERVICE}", [7])
    groups.fill(f"/systemd{SLICE}/app-drain-1-2.scope", [8])
    assert cgroup.processes(SERVICE) == [7]
    assert list(cgroup.relayed(SERVICE)) == [f"{SLICE}/app-drain-1-2.scope"]


@pytest.mark.parametrize(
    ("unit", "is_ours"),
    [
        ("app-drain-12-345.scope", True),
        ("app-drain-12.scope", True),  # of version 0.1.0
        ("app-drain-.scope", False),
        ("app-drain-x-1.scope", False),
        ("app-drain-1-2-3.scope", False),
        ("app-drain-1-2.service", False),
        ("other-drain-1-2.scope", False),
        ("my-app-drain-1-2.scope", False),
        ("app.service", False),
    ],
)
def test_scopes_of_a_service_are_known_by_their_names(groups: ControlGroups, unit: str, is_ours: bool) -> None:
    groups.fill(f"{SLICE}/{unit}", [])
    assert list(cgroup.relayed(SERVICE)) == [f"{SLICE}/{unit}"] * is_ours


def test_the_name_of_a_service_is_no_pattern(groups: ControlGroups) -> None:
    scope = groups.fill(f"{SLICE}/a+b@1.c-drain-1-2.scope", [])
    groups.fill(f"{SLICE}/aab@1xc-drain-1-2.scope", [])
    assert list(cgroup.relayed(f"{SLICE}/a+b@1.c.service")) == [scope]


def test_a_slice_that_is_not_there_has_no_scopes(groups: ControlGroups) -> None:
    assert list(cgroup.relayed(SERVICE)) == []
    groups.fill(SERVICE, [])
    assert list(cgroup.relayed(SERVICE)) == []


@pytest.mark.parametrize(
    ("scope", "master"),
    [
        (f"{SLICE}/app-drain-12-345.scope", 12),
        (f"{SLICE}/app-drain-12.scope", 12),
        (f"{SLICE}/app-drain-1-2-drain-3-4.scope", 3),
        (SERVICE, 0),
    ],
)
def test_the_name_of_a_scope_has_the_pid_of_the_master(scope: str, master: int) -> None:
    assert cgroup.master_of(scope) == master


def test_the_scope_of_a_living_master_is_told_by_when_it_was_started(groups: ControlGroups) -> None:
    """Another master, before, may have had the same pid."""
    groups.add_process(12, SERVICE)
    ends = cgroup.ends_of_own_scope(12)
    assert f"{SLICE}/app-drain-12-22.scope".endswith(ends)
    assert f"{SLICE}/app-drain-12.scope".endswith(ends)
    assert not f"{SLICE}/app-drain-12-21.scope".endswith(ends)
    with pytest.raises(OSError, match="No such file"):
        cgroup.ends_of_own_scope(NOBODY)


def test_child_processes_of_requests_are_no_workers(groups: ControlGroups) -> None:
    scope = groups.fill(f"{SLICE}/app-drain-1-2.scope", [7, 8, 9])
    groups.add_process(8, scope, parent=7)
    assert cgroup.workers(scope) == [7, 9]
