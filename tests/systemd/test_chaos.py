"""script/chaos: a short schedule keeps all promises, the judge finds a real defect, and the units in examples/chaos
revert what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from flask_socketact.handover.steps import Step
from tests.chaos.bench import build_for_tests, prepare
from tests.chaos.judge import judge
from tests.chaos.processes import NAME, Processes
from tests.chaos.run import run
from tests.chaos.schedule import parse
from tests.support.machine import EXAMPLES, Machine

MAILBOX = "flask_socketact/handover/mailbox.py"
SHORT = """
seed 1 seconds 7 thread
0.3 step worker-drains kill
0.5 restart
3.0 step relay-moves freeze 0.5
3.2 deploy
"""
FAR = float("inf")
UNITS = sorted(unit.name for unit in (EXAMPLES / "chaos").glob("*.service"))


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.config.getoption("--tree")) as machine:
        build_for_tests(machine)
        yield machine


def test_a_short_schedule_breaks_no_promise(machine: Machine) -> None:
    evidence, reached = run(machine, parse(SHORT))
    verdict = judge(evidence)
    assert verdict.violations == [], evidence.journal[-8000:]
    assert len(evidence.requests) > 200
    assert reached == {(Step.WORKER_DRAINS.value, "killed"): 1, (Step.RELAY_MOVES.value, "frozen"): 1}
    assert {halt.role for halt in evidence.halts} == {"old", "relay"}
    assert all(len(halt.ports) > 0 for halt in evidence.halts if halt.killed)


def test_a_worker_that_forgets_a_connection_is_found(machine: Machine) -> None:
    """A real defect: of the connections that a worker hands over, it closes the first."""
    (mailbox,) = machine.path("/srv/app/venv/lib").glob(f"python3*/site-packages/{MAILBOX}")
    text = mailbox.read_text()
    send = "yield self._send(origin, fds[start : start + batch])"
    forget = "self._send(origin, fds[max(start, 1) : start + batch]); yield fds[start : start + batch]"
    assert text.count(send) == 1
    mailbox.write_text(text.replace(send, forget))
    try:
        evidence, _ = run(machine, parse("seed 1 seconds 4 thread; 1.0 restart"))
    finally:
        mailbox.write_text(text)
    assert "closed" in {violation.rule for violation in judge(evidence).violations}, evidence.journal[-8000:]


def test_units_end_by_themselves_and_revert_what_they_did(machine: Machine) -> None:
    prepare(machine, parse("seed 1 seconds 4 thread"))
    processes = Processes(machine)
    before = processes.state()
    everyone = (before.master, *before.workers)
    limits = [limit(machine, pid, resource) for pid in everyone for resource in ("open files", "data size")]
    instances = [unit.replace("@", "@run" if "full" in unit else f"@{NAME}") for unit in UNITS if "kill" not in unit]
    assert len(instances) == len(UNITS) - 1
    machine.systemctl("start", *sorted(instances, key=lambda unit: "full" in unit))
    machine.wait_for(lambda: any(map(processes.is_stopped, everyone)), "a process to be frozen")
    machine.wait_for(lambda: processes.is_stopped(int(machine.show("dbus", "MainPID"))), "D-Bus to be frozen")
    machine.wait_for(lambda: any(limit(machine, pid, "open files") < 200 for pid in before.workers), "few descriptors")
    machine.wait_for(lambda: any(limit(machine, pid, "data size") < FAR for pid in everyone), "no more memory")
    machine.wait_for(lambda: free(machine) == 0, "/run to be full")
    machine.wait_for(lambda: {machine.show(unit, "ActiveState") for unit in instances} == {"inactive"}, "their end")
    assert free(machine) > 0
    assert not any(map(processes.is_stopped, everyone))
    assert not processes.is_stopped(int(machine.show("dbus", "MainPID")))
    assert limits == [limit(machine, pid, resource) for pid in everyone for resource in ("open files", "data size")]
    assert processes.state() == before
    machine.systemctl("start", f"chaos-kill@{NAME}")
    machine.wait_for(lambda: processes.state() != before, "a process to be killed")


def free(machine: Machine) -> int:
    """Return the free blocks of /run."""
    return int(machine.run("df", "--output=avail", "/run").stdout.split()[-1])


def limit(machine: Machine, pid: int, resource: str) -> float:
    """Return how much of a resource a process may have."""
    found = re.search(rf"Max {resource}\s+(\S+)", machine.path(f"/proc/{pid}/limits").read_text())
    assert found is not None
    return float(found[1].replace("unlimited", "inf"))
