"""Checks of the socket units that start the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.account import account, group_id, user_id
from flask_socketact.cli.doctor.finding import Finding, error, ok, warning
from flask_socketact.cli.ports import describe_lost
from flask_socketact.errors import AccountError

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.system import System
    from flask_socketact.systemd.unit import Unit

#: Backlog= when it is not set (systemd 252, 254): the kernel's maximum applies.
AS_MANY_AS_ALLOWED = (2**31 - 1, 2**32 - 1)
#: A shorter queue may overflow in a restart.
SHORT_QUEUE = 1024


def port(system: System) -> Finding:
    """The manager holds the port."""
    if not system.sockets:
        return _no_socket(system)
    for unit in system.sockets:
        if unit["ActiveState"] != "active":
            return _closed(system, unit)
    addresses = [address for unit in system.sockets for address in unit.listens("Stream")]
    if not addresses:
        names = ", ".join(unit.name for unit in system.sockets)
        return error(f"there is no ListenStream= in {names}", _reopen(system, "Add it"))
    if system.lost.addresses:
        return _lost(system)
    return ok(f"{', '.join(addresses)} held by {', '.join(unit.name for unit in system.sockets)}")


def _no_socket(system: System) -> Finding:
    name = f"{system.service.name.removesuffix('.service')}.socket"
    what = f"no socket unit holds the port of {system.service.name}: every restart refuses connections"
    enable = f"{system.systemctl} enable --now {name}"
    if name in system.masked:
        return error(f"{what}; {name} is masked", f"{system.unmask(name)}; {system.install_again}; then {enable}")
    if system.own_socket == "not-found":
        return error(f"{what}; there is no {name}", f"{system.install_again}; then {enable}")
    return error(f"{what}; {name} starts another service", f"Set Service={system.service.name} in it; then {enable}")


def _lost(system: System) -> Finding:
    """Describe addresses that changed in the unit: the manager opens them only when the unit starts."""
    nowhere = [address for address in system.lost.addresses if address not in system.lost.kept]
    if nowhere:
        what = describe_lost(nowhere, is_kept=False)
        return error(what, _reopen(system, "Open it again; clients are refused meanwhile"))
    return error(describe_lost(system.lost.kept, is_kept=True), _reopen(system, "Open it again; clients notice"))


def _closed(system: System, unit: Unit) -> Finding:
    what = f"{unit.name} is {unit['ActiveState']} ({unit['Result']}): its port is closed"
    for address in unit.listens("Stream"):
        if who := system.occupants.get(address):
            remedy = f"Stop it, or choose another address with --listen; then {system.systemctl} start {unit.name}"
            return error(f"{what}, and {address} is held by {who}", remedy)
    if why := system.failures.get(unit.name):
        return error(f"{what}: {why}", f"Correct that; then {system.systemctl} enable --now {unit.name}")
    return error(what, f"{system.systemctl} enable --now {unit.name}")


def boot(system: System) -> Finding | None:
    """The port is open after a reboot."""
    names = [unit.name for unit in system.sockets if unit["UnitFileState"] == "disabled"]
    if names:
        what = f"{' and '.join(names)} not enabled: the port is closed after a reboot"
        return warning(what, f"{system.systemctl} enable {' '.join(names)}")
    return ok("the port is open after a reboot") if system.sockets else None


def accept(system: System) -> Finding:
    """The service gets listeners, not connections."""
    for unit in system.sockets:
        if unit["Accept"] == "yes":
            what = f"Accept=yes in {unit.name}: each connection starts its own service, which gunicorn does not support"
            return error(what, _reopen(system, "Set Accept=no"))
    return ok("Accept=no")


def flush_pending(system: System) -> Finding:
    """Connections that wait for the service are kept."""
    for unit in system.sockets:
        if unit["FlushPending"] == "yes":
            what = f"FlushPending=yes in {unit.name}: a start closes the connections that wait"
            return error(what, system.set("FlushPending=no", unit))
    return ok("FlushPending=no")


def trigger_limit(system: System) -> Finding:
    """Clients that keep connecting do not close the port."""
    for unit in system.sockets:
        interval, burst = unit.seconds("TriggerLimitIntervalUSec"), unit["TriggerLimitBurst"]
        if interval != 0 and burst != "0":
            what = (
                f"{unit.name} may start the service {burst} times in {interval:g} s: "
                "with a release that fails to load, systemd soon closes the port for good"
            )
            return error(what, system.set("TriggerLimitIntervalSec=0", unit))
    return ok("no trigger limit")


def backlog(system: System) -> Finding | None:
    """The queue of connections that wait is long, and as long as the unit says."""
    units = [unit for unit in system.sockets if unit.listens("Stream")]
    for unit in units:
        length = int(unit["Backlog"])
        if length > system.somaxconn and length not in AS_MANY_AS_ALLOWED:
            what = f"Backlog={length} in {unit.name} is limited to net.core.somaxconn={system.somaxconn}"
            return warning(what, _reopen(system, f"sysctl net.core.somaxconn={length}, also in /etc/sysctl.d"))
        queue = min(length, system.somaxconn)
        if queue < SHORT_QUEUE:
            what = f"only {queue} connections may wait at {unit.name}: more are refused while no worker accepts"
            remedy = f"Raise Backlog= (is {length}) and sysctl net.core.somaxconn (is {system.somaxconn}) to 4096"
            return warning(what, _reopen(system, remedy))
    return ok(f"at least {SHORT_QUEUE} connections may wait, net.core.somaxconn={system.somaxconn}") if units else None


def mailbox(system: System) -> Finding:
    """Idle connections are handed over to the new workers."""
    boxes = _mailboxes(system)
    if not boxes:
        stem = system.service.name.removesuffix(".service")
        line = f"Add ListenSequentialPacket={'%t' if system.user_manager else '/run'}/{stem}/mailbox to its socket unit"
        what = f"{system.service.name} has no mailbox: its restarts close idle connections"
        return error(what, _reopen(system, line))
    told = ", ".join(f"{address} of {unit.name}" for unit, address in boxes)
    if len(boxes) > 1:
        what = f"there are {len(boxes)} mailboxes, but may be only one: {told}"
        return error(what, _reopen(system, "Keep one ListenSequentialPacket="))
    return ok(told)


def mailbox_access(system: System) -> Finding | None:
    """The service's user may connect to the mailbox."""
    for unit, address in _mailboxes(system):
        if address.startswith("@"):
            continue
        mode = int(unit["SocketMode"], 8)
        owner = unit["SocketUser"] or ("" if system.user_manager else "root")
        told = f"SocketUser={owner}, SocketGroup={unit['SocketGroup']}, SocketMode={unit['SocketMode']} of {unit.name}"
        try:
            user = account(system.service, user_manager=system.user_manager)
            allowed = user.may_write(*_owner(unit, user.uid if system.user_manager else 0), mode)
        except AccountError as failed:
            return error(f"{failed}, for {address} in {unit.name}", "Create it, or set another")
        if not allowed:
            remedy = _reopen(system, f"Set SocketUser={user.name} and SocketMode=0600 in {unit.name}")
            return error(f"{user.name} may not connect to the mailbox {address}: {told}", remedy)
        return ok(f"{user.name} may connect to {address}")
    return None


def _mailboxes(system: System) -> list[tuple[Unit, str]]:
    return [(unit, address) for unit in system.sockets for address in unit.listens("SequentialPacket")]


def _owner(unit: Unit, default: int) -> tuple[int, int]:
    """Return user and group of a socket in the file system; without SocketGroup= it has the user's group."""
    owner = user_id(unit["SocketUser"] or str(default))
    return owner.pw_uid, group_id(unit["SocketGroup"]) if unit["SocketGroup"] else owner.pw_gid


def _reopen(system: System, remedy: str) -> str:
    """Return a remedy that changes an address: systemd opens it when the socket unit starts."""
    if not system.sockets:
        return system.install_again
    names = " ".join(unit.name for unit in system.sockets)
    steps = ("daemon-reload", f"stop {system.service.name} {names}", f"start {names}")
    return f"{remedy}; then {', '.join(f'{system.systemctl} {step}' for step in steps)}"
