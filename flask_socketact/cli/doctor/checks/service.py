"""Checks of the service unit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.cli import unit_journal
from flask_socketact.cli.doctor.finding import Finding, error, ok, warning
from flask_socketact.shared import metric_files
from flask_socketact.systemd.manager import Manager, runtime_folders

if TYPE_CHECKING:
    from flask_socketact.cli.doctor.system import System

#: Values of Restart= that restart after every failure, and only after a signal.
RESTARTS_ALL = ("always", "on-failure")
RESTARTS_KILLED = ("on-abnormal", "on-abort")


def unit_files(system: System) -> Finding:
    """The units in memory are those on disk."""
    units = (system.service, *system.sockets, *system.helpers, *filter(None, [system.agent]))
    changed = [unit.name for unit in units if unit["NeedDaemonReload"] == "yes"]
    if changed:
        what = f"{' and '.join(changed)} changed on disk: the checks below show the units that systemd has loaded"
        return warning(what, f"{system.systemctl} daemon-reload, and run doctor again")
    files = [path for unit in units for path in (unit["FragmentPath"], *unit["DropInPaths"].split())]
    return ok(", ".join(files))


def ignored(system: System) -> Finding | None:
    """The manager accepts every line of the units."""
    if not system.ignored:
        return None
    first, *others = system.ignored
    more = f" (and {len(others)} more)" if others else ""
    return warning(f"systemd ignores a line: {first}{more}", f"Correct it; then {system.systemctl} daemon-reload")


def masked(system: System) -> Finding | None:
    """No unit of the service is masked."""
    if not system.masked:
        return None
    remedy = f"{system.unmask(*system.masked)}; {system.install_again}"
    return error(f"nothing can start {', '.join(system.masked)}", remedy)


def state(system: System) -> Finding:
    """The service starts with the release on disk."""
    service = system.service
    active, result = service["ActiveState"], service["Result"]
    said = service["StatusText"]
    what = f"{service.name} is {active}"
    journal = unit_journal.as_typed(service.name, user=system.user_manager)
    remedy = f"See {journal}; old workers from before the restart, if any, keep serving"
    if active == "failed" or service["SubState"] == "auto-restart":
        why = said or system.failures.get(service.name, "")
        return error(f"{what} ({result}){f': {why}' if why else ''}", remedy)
    if said.startswith("Reload failed") or "workers are missing" in said:
        return warning(f"{what}: {said}", f"See {journal}")
    return ok(f"{what}{f': {said}' if said else ''}")


def readiness(system: System) -> Finding:
    """A start waits for READY=1, which only the master may send."""
    kind, access = system.service["Type"], system.service["NotifyAccess"]
    told = f"Type={kind}, NotifyAccess={access} in {system.service.name}"
    if kind not in ("notify", "notify-reload"):
        return error(f"{told}: systemctl start returns before a worker accepts", system.set("Type=notify"))
    if access == "none":
        return error(f"{told}: systemd ignores READY=1", system.set("NotifyAccess=main"))
    if access != "main":
        return warning(f"{told}: any process of the service may send READY=1", system.set("NotifyAccess=main"))
    return ok(told)


def kill_mode(system: System) -> Finding:
    """After the master is killed, its workers get SIGTERM and finish."""
    mode = system.service["KillMode"]
    told = f"KillMode={mode} in {system.service.name}"
    remedy = system.set("KillMode=control-group")
    if mode == "mixed":
        return error(f"{told}: if the master is killed, so are its workers and their requests", remedy)
    if mode != "control-group":
        return error(f"{told}: if the master is killed, its workers and child processes are left behind", remedy)
    return ok(told)


def final_kill(system: System) -> Finding:
    """A process that ignores SIGTERM is killed in the end."""
    if system.service["SendSIGKILL"] == "no":
        what = f"SendSIGKILL=no in {system.service.name}: processes that ignore SIGTERM survive a stop"
        return warning(what, system.set("SendSIGKILL=yes"))
    return ok("SendSIGKILL=yes")


def restart(system: System) -> Finding:
    """A master that was killed, and a release that failed to load, are started again."""
    when, delay = system.service["Restart"], system.service.seconds("RestartUSec")
    told = f"Restart={when}, RestartSec={delay:g} in {system.service.name}"
    remedy = system.set("Restart=on-failure and RestartSec=2")
    if when in RESTARTS_KILLED:
        return warning(f"{told}: a release that failed to load is not started again", remedy)
    if when not in RESTARTS_ALL:
        return error(f"{told}: a master that was killed is not started again", remedy)
    if delay == 0:
        return warning(f"{told}: a release that failed to load is started again without a pause", remedy)
    return ok(told)


def start_limit(system: System) -> Finding:
    """Failed starts do not close the port."""
    interval, burst = system.service.seconds("StartLimitIntervalUSec"), system.service["StartLimitBurst"]
    if interval == 0 or burst == "0":
        return ok(f"no start limit in {system.service.name}")
    what = (
        f"{system.service.name} may start {burst} times in {interval:g} s: "
        "with a release that fails to load, systemd soon closes the port for good"
    )
    return error(what, system.set("StartLimitIntervalSec=0 in [Unit]"))


def non_blocking(system: System) -> Finding:
    """A start does not make the listeners of old workers blocking."""
    if system.service["NonBlocking"] != "yes":
        what = f"NonBlocking=no in {system.service.name}: a start makes old workers hang in accept()"
        return error(what, system.set("NonBlocking=yes"))
    return ok("NonBlocking=yes")


def private_tmp(system: System) -> Finding | None:
    """An upload may begin before a restart and end after it."""
    service = system.service
    if not service.overlaps:
        return None  # old workers exit before the restart
    if service["PrivateTmp"] != "yes" or service["PrivateTmpEx"] == "disconnected":
        return ok(f"the /tmp of {service.name} outlives a restart")
    if not system.sockets:
        return None  # the check of the port reports it
    joined = service["JoinsNamespaceOf"].split()
    for unit in system.sockets:
        if unit.name in joined and unit["PrivateTmp"] == "yes" and unit["ExecStartPre"]:
            return ok(f"the /tmp of {service.name} is that of {unit.name}, and outlives a restart")
    what = f"PrivateTmp=yes in {service.name}: a restart removes its /tmp, and uploads to old workers fail"
    names = " or ".join(unit.name for unit in system.sockets)
    lines = f"PrivateTmp=yes and ExecStartPre=-…/relay start-pre {service.name} in {names}"
    return error(what, f"Set JoinsNamespaceOf={names} in [Unit] of {service.name}, and {lines}; then restart both")


def remove_ipc(system: System) -> Finding:
    """A restart does not remove the shared memory of old workers."""
    if system.service["RemoveIPC"] == "yes":
        what = f"RemoveIPC=yes in {system.service.name}: a restart removes the shared memory of old workers"
        return warning(what, system.set("RemoveIPC=no"))
    return ok("RemoveIPC=no")


def reload(system: System) -> Finding | None:
    """A reload sends one SIGHUP, and returns when the new workers accept."""
    service = system.service
    if not service.overlaps:
        return None
    commands = [command.text for command in service.commands("ExecReloadEx")]
    signals = any("kill -HUP" in text for text in commands)
    if service["Type"] == "notify-reload" and signals:
        what = f"Type=notify-reload and ExecReload= of {service.name} both send SIGHUP: each reload runs twice"
        return warning(what, system.set("ExecReload= without kill -HUP"))
    if service["Type"] != "notify-reload" and not signals:
        what = f"nothing in ExecReload= of {service.name} sends SIGHUP: systemctl reload does nothing"
        return warning(what, f"{system.install_again}, or use only systemctl restart")
    if not any(text.endswith(f" reload {service.name}") for text in commands):
        what = f"no ExecReload=…/relay reload %n in {service.name}: systemctl reload succeeds even if the reload failed"
        return warning(what, system.install_again)
    return ok(f"ExecReload= of {service.name} waits for the new workers")


def watchdog(system: System) -> Finding | None:
    """A service that hangs is restarted; its healthy workers keep serving."""
    if not system.service.is_active:
        return None  # systemd shows WatchdogSec= only for a running service
    seconds, number = system.service.seconds("WatchdogUSec"), system.service["WatchdogSignal"]
    if not 0 < seconds < float("inf"):
        return warning(
            f"no WatchdogSec= in {system.service.name}: a service that hangs is not restarted",
            system.set("WatchdogSec=60"),
        )
    if number != str(int(signal.SIGPWR)):
        what = f"WatchdogSignal={number} in {system.service.name}: if the master hangs, its workers are killed, too"
        return warning(what, system.set("WatchdogSignal=SIGPWR"))
    return ok(f"WatchdogSec={seconds:g}, WatchdogSignal=SIGPWR in {system.service.name}")


def out_of_memory(system: System) -> Finding:
    """A worker that is killed for its memory is replaced."""
    policy = system.service["OOMPolicy"]
    if policy != "continue":
        what = f"OOMPolicy={policy} in {system.service.name}: one worker that runs out of memory stops all of them"
        return warning(what, system.set("OOMPolicy=continue"))
    return ok("OOMPolicy=continue")


def counters(system: System) -> Finding:
    """Workers share their counters, and every user may read them."""
    service = system.service
    folders = runtime_folders(service, Manager(user=system.user_manager))
    if not folders:
        return warning(f"no RuntimeDirectory= in {service.name}: status shows no workers", system.install_again)
    metrics = service.environment.get(metric_files.FOLDER, "")
    if Path(metrics) == folders[0]:
        told = f"{metric_files.FOLDER}={metrics} in {service.name}"
        what = f"{told} is also the folder of the scoreboards: recipes for prometheus_client empty it"
        return warning(what, system.install_again)
    mode = service["RuntimeDirectoryMode"]
    if mode[-1:] not in ("1", "5"):
        return warning(f"RuntimeDirectoryMode={mode}: status shows workers only to root", system.install_again)
    return ok(f"{folders[0]} of {service.name}")
