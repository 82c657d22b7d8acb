"""The checks of ``flask-socketact doctor``, in the order of its output.

A new check is a function in a module of this folder, and a line in `CHECKS`. ``system.py`` has the data that it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.checks import balancer, configuration, host, relay, sandbox, service, sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask_socketact.cli.doctor.finding import Finding
    from flask_socketact.cli.doctor.system import System

#: Each check returns what it found, or None where it does not apply.
CHECKS: dict[str, Callable[[System], Finding | None]] = {
    "systemd": host.version,
    "D-Bus": host.bus,
    "linger": host.linger,
    "command": relay.command,
    "unit files": service.unit_files,
    "ignored lines": service.ignored,
    "masked": service.masked,
    "state": service.state,
    "boot": sockets.boot,
    "application": configuration.application,
    "configuration": configuration.configuration,
    "drain time": configuration.drain_time,
    "descriptors": configuration.descriptors,
    "port": sockets.port,
    "accept": sockets.accept,
    "waiting connections": sockets.flush_pending,
    "backlog": sockets.backlog,
    "trigger limit": sockets.trigger_limit,
    "start limit": service.start_limit,
    "restart": service.restart,
    "readiness": service.readiness,
    "reload": service.reload,
    "watchdog": service.watchdog,
    "out of memory": service.out_of_memory,
    "kill mode": service.kill_mode,
    "final kill": service.final_kill,
    "non-blocking": service.non_blocking,
    "root": relay.privileges,
    "relay": relay.lines,
    "watchdog relay": relay.watchdog,
    "relay permissions": relay.permissions,
    "relay version": relay.version,
    "mailbox": sockets.mailbox,
    "mailbox access": sockets.mailbox_access,
    "private /tmp": service.private_tmp,
    "sandbox": sandbox.writable,
    "shared memory": service.remove_ipc,
    "counters": service.counters,
    "agent": balancer.agent,
    "share": balancer.share,
}


def run(system: System) -> Iterator[tuple[str, Finding]]:
    """Yield the name of each check that applies, and what it found."""
    for name, check in CHECKS.items():
        finding = check(system)
        if finding is not None:
            yield name, finding
