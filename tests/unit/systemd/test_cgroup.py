"""Control groups of a service, and of the scopes that its old workers are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_socketact.linux import proc
from flask_socketact.systemd import cgroup
from tests.support.control_groups import NO_PROCESS, SERVICE, SLICE, ControlGroups


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
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(f"{lines}\n")
    assert cgroup.of(7) == group


def test_a_process_that_has_exited_has_no_group() -> None:
    assert cgroup.of(NO_PROCESS) is None
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
    assert sorted(cgroup.children(SLICE)) == ["app-drain-1-2.scope", "app.service"]


def test_child_processes_of_requests_are_no_workers(groups: ControlGroups) -> None:
    scope = groups.fill(f"{SLICE}/app-drain-1-2.scope", [7, 8, 9])
    groups.add_process(8, scope, parent=7)
    assert cgroup.workers(scope) == [7, 9]
