"""What the relay, the master and the workers agree upon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flask_socketact.handover
from flask_socketact.handover import protocol
from tests.support.control_groups import NO_PROCESS, SERVICE, SLICE, ControlGroups

RELAY = Path(flask_socketact.handover.__file__).with_name("relay").read_text()


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlGroups:
    return ControlGroups(tmp_path, monkeypatch)


def test_the_relay_and_python_name_a_scope_alike() -> None:
    (name,) = re.findall(r"^scope=(.*)$", RELAY, re.MULTILINE)
    scope = name.replace("$stem", "app").replace("$pid", "270").replace("$start", "18350")
    assert protocol.master_of(f"/system.slice/{scope}") == 270
    assert 'numbers=${found#"$stem-drain-"}' in RELAY


def test_the_relay_and_python_use_the_same_signals() -> None:
    assert f"\nstop_signal={protocol.STOP.value}\n" in RELAY
    assert f"kill -s {protocol.REOPEN.name.removeprefix('SIG')} " in RELAY


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
    assert list(protocol.scopes(SERVICE)) == [f"{SLICE}/{unit}"] * is_ours


def test_the_name_of_a_service_is_not_a_pattern(groups: ControlGroups) -> None:
    scope = groups.fill(f"{SLICE}/a+b.c-drain-1-2.scope", [])
    groups.fill(f"{SLICE}/aabxc-drain-1-2.scope", [])
    assert list(protocol.scopes(f"{SLICE}/a+b.c.service")) == [scope]


def test_an_instance_has_a_colon_in_the_names_of_its_scopes(groups: ControlGroups) -> None:
    """Scopes cannot have instances."""
    (stem,) = re.findall(r"stem=(\$\S+) relay=", RELAY)[:1]
    assert stem == "${name%%@*}:${name#*@}"
    scope = groups.fill(f"{SLICE}/app:1-drain-1-2.scope", [])
    groups.fill(f"{SLICE}/app-1-drain-1-2.scope", [])
    groups.fill(f"{SLICE}/app:1-drain-5-drain-1-2.scope", [])  # of the instance 1-drain-5
    assert list(protocol.scopes(f"{SLICE}/app@1.service")) == [scope]


def test_a_slice_that_does_not_exist_has_no_scopes(groups: ControlGroups) -> None:
    assert list(protocol.scopes(SERVICE)) == []
    groups.fill(SERVICE, [])
    assert list(protocol.scopes(SERVICE)) == []


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
    assert protocol.master_of(scope) == master


def test_the_scope_of_a_living_master_has_its_start_time(groups: ControlGroups) -> None:
    """Another master, before, may have had the same pid."""
    groups.add_process(12, SERVICE)
    ends = protocol.scope_endings(12)
    assert f"{SLICE}/app-drain-12-22.scope".endswith(ends)
    assert f"{SLICE}/app-drain-12.scope".endswith(ends)
    assert not f"{SLICE}/app-drain-12-21.scope".endswith(ends)
    with pytest.raises(OSError, match="No such file"):
        protocol.scope_endings(NO_PROCESS)
