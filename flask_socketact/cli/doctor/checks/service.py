"""Checks of the service unit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli.doctor.checks.finding import INSTALL, Finding, error, ok, warning
from flask_socketact.shared import metric_files
from flask_socketact.systemd.manager import Manager, runtime_folders

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.checks.system import System

#: What systemd does with Restart= when the main process was killed, and when it exits with an error.
RESTARTS_ALL = ("always", "on-failure")
RESTARTS_KILLED = ("on-abnormal", "on-abort")


def unit_files(system: System) -> Finding:
    """The units in memory are those on disk."""
    units = (system.service, *system.sockets, *system.helpers)
    changed = [unit.name for unit in units if unit["NeedDaemonReload"] == "yes"]
    if changed:
        what = f"{' and '.join(changed)} changed on disk: what follows is what systemd has read before"
        return warning(what, f"{system.systemctl} daemon-reload, and run doctor again")
    files = [path for unit in units for path in (unit["FragmentPath"], *unit["DropInPaths"].split())]
    return ok(", ".join(files))


def ignored(system: System) -> Finding | None:
    """The manager takes every line of the units."""
    if not system.ignored:
        return None
    first, *others = system.ignored
    more = f" (and {len(others)} more)" if others else ""
    return warning(f"systemd ignores a line: {first}{more}", f"Correct it; then {system.systemctl} daemon-reload")


def masked(system: System) -> Finding | None:
    """The manager may start every unit of the service."""
    if not system.masked:
        return None
    remedy = f"{system.unmask(*system.masked)}; {INSTALL}"
    return error(f"nothing can start {', '.join(system.masked)}", remedy)


def state(system: System) -> Finding:
    """The release on disk boots."""
    service = system.service
    active, result = service["ActiveState"], service["Result"]
    said = service["StatusText"]
    what = f"{service.name} is {active}"
    remedy = f"journalctl -u {service.name}; old workers from before the restart, if there are some, serve on"
    if active == "failed" or service["SubState"] == "auto-restart":
        why = said or system.failures.get(service.name, "")
        return error(f"{what} ({result}){f': {why}' if why else ''}", remedy)
    if said.startswith("Reload failed") or "workers are missing" in said:
        return warning(f"{what}: {said}", f"journalctl -u {service.name}")
    return ok(f"{what}{f': {said}' if said else ''}")


def readiness(system: System) -> Finding:
    """A start waits for READY=1, which is taken from the master only."""
    kind, access = system.service["Type"], system.service["NotifyAccess"]
    told = f"Type={kind}, NotifyAccess={access} in {system.service.name}"
    if kind not in ("notify", "notify-reload"):
        return error(f"{told}: a start is taken for done before a worker answers", system.set("Type=notify"))
    if access == "none":
        return error(f"{told}: READY=1 of the master is not heard", system.set("NotifyAccess=main"))
    if access != "main":
        return warning(f"{told}: any process of the service may say READY=1", system.set("NotifyAccess=main"))
    return ok(told)


def kill_mode(system: System) -> Finding:
    """Workers whose master was killed get SIGTERM, and finish."""
    mode = system.service["KillMode"]
    told = f"KillMode={mode} in {system.service.name}"
    remedy = system.set("KillMode=control-group")
    if mode == "mixed":
        return error(f"{told}: when the master is killed, so are its workers, with the requests in flight", remedy)
    if mode != "control-group":
        return error(f"{told}: workers whose master was killed, and programs, are left behind", remedy)
    return ok(told)


def final_kill(system: System) -> Finding:
    """What does not obey is killed in the end."""
    if system.service["SendSIGKILL"] == "no":
        what = f"SendSIGKILL=no in {system.service.name}: what does not obey SIGTERM is left after a stop"
        return warning(what, system.set("SendSIGKILL=yes"))
    return ok("SendSIGKILL=yes")


def restart(system: System) -> Finding:
    """A master that was killed is started again, and a release that does not boot tried again."""
    when, delay = system.service["Restart"], system.service.seconds("RestartUSec")
    told = f"Restart={when}, RestartSec={delay:g} in {system.service.name}"
    remedy = system.set("Restart=on-failure and RestartSec=2")
    if when in RESTARTS_KILLED:
        return warning(f"{told}: a release that does not boot is not tried again", remedy)
    if when not in RESTARTS_ALL:
        return error(f"{told}: nobody starts a master again that was killed", remedy)
    if delay == 0:
        return warning(f"{told}: a release that does not boot is tried again without a pause", remedy)
    return ok(told)


def start_limit(system: System) -> Finding:
    """Starts that fail do not close the port."""
    interval, burst = system.service.seconds("StartLimitIntervalUSec"), system.service["StartLimitBurst"]
    if interval == 0 or burst == "0":
        return ok(f"no start limit in {system.service.name}")
    what = (
        f"{system.service.name} may start {burst} times in {interval:g} s: "
        "a release that does not boot soon makes systemd close the port for good"
    )
    return error(what, system.set("StartLimitIntervalSec=0 in [Unit]"))


def non_blocking(system: System) -> Finding:
    """A start does not change the listeners of the old workers, which have them open."""
    if system.service["NonBlocking"] != "yes":
        what = f"NonBlocking=no in {system.service.name}: its start makes old workers hang in their listeners"
        return error(what, system.set("NonBlocking=yes"))
    return ok("NonBlocking=yes")


def private_tmp(system: System) -> Finding | None:
    """An upload that began before a restart may end after it."""
    service = system.service
    if not service.overlaps:
        return None  # it has ended before
    if service["PrivateTmp"] != "yes" or service["PrivateTmpEx"] == "disconnected":
        return ok(f"the /tmp of {service.name} outlives a restart")
    if not system.sockets:
        return None  # that is told
    joined = service["JoinsNamespaceOf"].split()
    for unit in system.sockets:
        if unit.name in joined and unit["PrivateTmp"] == "yes" and unit["ExecStartPre"]:
            return ok(f"the /tmp of {service.name} is that of {unit.name}, and outlives a restart")
    what = f"PrivateTmp=yes in {service.name}: its /tmp is removed in a restart, and uploads to the old workers fail"
    names = " or ".join(unit.name for unit in system.sockets)
    lines = f"PrivateTmp=yes and ExecStartPre=-…/relay start-pre {service.name} in {names}"
    return error(what, f"Set JoinsNamespaceOf={names} in [Unit] of {service.name}, and {lines}; then restart both")


def remove_ipc(system: System) -> Finding:
    """Old workers keep their shared memory."""
    if system.service["RemoveIPC"] == "yes":
        what = f"RemoveIPC=yes in {system.service.name}: a restart takes shared memory from the old workers"
        return warning(what, system.set("RemoveIPC=no"))
    return ok("RemoveIPC=no")


def reload(system: System) -> Finding | None:
    """A reload reaches the master once, and ends when the new workers answer."""
    service = system.service
    if not service.overlaps:
        return None
    commands = [command.text for command in service.commands("ExecReloadEx")]
    signals = any("kill -HUP" in text for text in commands)
    if service["Type"] == "notify-reload" and signals:
        what = f"Type=notify-reload sends SIGHUP, and so does ExecReload= of {service.name}: each reload is two"
        return warning(what, system.set("ExecReload= without kill -HUP"))
    if service["Type"] != "notify-reload" and not signals:
        what = f"nothing in ExecReload= of {service.name} sends SIGHUP: systemctl reload does nothing"
        return warning(what, f"{INSTALL}, or use systemctl restart alone")
    if not any(text.endswith(f" reload {service.name}") for text in commands):
        what = f"no ExecReload=…/relay reload %n in {service.name}: systemctl reload succeeds also when it has failed"
        return warning(what, INSTALL)
    return ok(f"ExecReload= of {service.name} waits for the new workers")


def watchdog(system: System) -> Finding | None:
    """A service that hangs is restarted, and its workers that are well serve on."""
    if not system.service.is_active:
        return None  # systemd tells WatchdogSec= of a service that runs only
    seconds, number = system.service.seconds("WatchdogUSec"), system.service["WatchdogSignal"]
    if not 0 < seconds < float("inf"):
        return warning(
            f"no WatchdogSec= in {system.service.name}: a service that hangs is left so", system.set("WatchdogSec=60")
        )
    if number != str(int(signal.SIGPWR)):
        what = f"WatchdogSignal={number} in {system.service.name}: a master that hangs takes all its workers with it"
        return warning(what, system.set("WatchdogSignal=SIGPWR"))
    return ok(f"WatchdogSec={seconds:g}, WatchdogSignal=SIGPWR in {system.service.name}")


def out_of_memory(system: System) -> Finding:
    """A worker that is killed for the memory it takes is replaced."""
    policy = system.service["OOMPolicy"]
    if policy != "continue":
        what = f"OOMPolicy={policy} in {system.service.name}: one worker that is out of memory ends all of them"
        return warning(what, system.set("OOMPolicy=continue"))
    return ok("OOMPolicy=continue")


def counters(system: System) -> Finding:
    """The workers count together, and whoever may use systemctl may look."""
    service = system.service
    folders = runtime_folders(service, Manager(user=system.user_manager))
    if not folders:
        return warning(f"no RuntimeDirectory= in {service.name}: status sees no workers", INSTALL)
    metrics = service.environment.get(metric_files.FOLDER, "")
    if Path(metrics) == folders[0]:
        told = f"{metric_files.FOLDER}={metrics} in {service.name}"
        what = f"{told} is the folder of status, too: recipes for prometheus_client empty it"
        return warning(what, INSTALL)
    mode = service["RuntimeDirectoryMode"]
    if mode[-1:] not in ("1", "5"):
        return warning(f"RuntimeDirectoryMode={mode}: only root sees in status what the workers do", INSTALL)
    return ok(f"{folders[0]} of {service.name}")
