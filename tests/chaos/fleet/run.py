"""Runs a schedule on a fleet, repairs the fleet, and returns the evidence."""

from __future__ import annotations

import time
from functools import partial

from tests.chaos.access import Access
from tests.chaos.clients import Clients, Kind
from tests.chaos.fleet.balancer import Watch
from tests.chaos.fleet.bench import Bench, executed
from tests.chaos.fleet.evidence import Deed, FleetEvidence, read_log
from tests.chaos.fleet.faults import Faults
from tests.chaos.fleet.operations import Operations
from tests.chaos.fleet.schedule import OPERATIONS
from tests.chaos.run import play
from tests.chaos.schedule import Schedule
from tests.support.fleet import BALANCER
from tests.support.machine import MachineError, enter_network

#: Few of each: the machines and Ansible need the CPU.
KINDS = {
    "new": Kind(3, think=(0.05, 0.25), keeps=False),
    "keep-alive": Kind(4, think=(0.05, 0.25)),
    "idle": Kind(4, think=(2.0, 4.0)),
    "long": Kind(3, milliseconds=2000, think=(0.2, 0.4)),
    "upload": Kind(3, think=(0.2, 0.4), pieces=6, pause=0.15),
}


def run(bench: Bench, schedule: Schedule) -> FleetEvidence:
    """Run a schedule, and return what happened.

    The clients also watch the repair. If that fails, the leftovers say so, and the fleet is of no more use.
    """
    bench.forget()
    log = bench.fleet.folder / "haproxy.log"
    before = log.stat().st_size
    began = time.monotonic()
    operations = Operations(bench)
    faults = Faults(bench, operations)
    enter = partial(enter_network, bench.fleet.network.leader)
    with Watch(bench.fleet) as watch, Clients(Access(enter, BALANCER), KINDS, schedule.seed) as clients:
        play(schedule, operations.do, OPERATIONS, faults.begin, operations.stop)
        faults.wait()
        leftovers = _repair(bench, operations, faults)
    evidence = FleetEvidence(clients.requests, clients.closed, late=clients.late, leftovers=leftovers)
    evidence.looks = watch.looks
    machines = bench.fleet.machines
    evidence.executed = faults.executed + [
        (each, name) for name, machine in machines.items() for each in executed(machine)
    ]
    evidence.deeds, evidence.operations = faults.deeds + operations.killed, operations.operations
    with log.open() as file:
        file.seek(before)
        evidence.logs["haproxy"] = file.read()
    evidence.passed = read_log(evidence.logs["haproxy"])
    evidence.logs["playbooks"] = "\n".join(operations.outputs)
    since = f"--since=-{int(time.monotonic() - began) + 2}s"
    for name, machine in machines.items():
        command = ("journalctl", "--no-pager", "--output=short-monotonic", since)
        evidence.logs[f"journal-{name}"] = machine.run(*command, check=False).stdout
    return evidence


def _repair(bench: Bench, operations: Operations, faults: Faults) -> list[str]:
    """Boot what has crashed, deploy a good release, and return what is wrong then."""
    try:
        bench.boot_again()
        release = operations.repair()
        leftovers = bench.leftovers(release)
    except (MachineError, OSError) as error:
        return [f"repair: {error}"]
    finally:
        ended = time.monotonic()
        faults.deeds += [Deed("crash", name, at, ended) for name, at in faults.crashed.items()]
    if operations.operations[-1].status != 0:
        leftovers.append(f"the repair failed: {operations.operations[-1]}")
    return leftovers
