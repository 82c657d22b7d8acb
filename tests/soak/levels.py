"""What must stay level: memory, file descriptors, processes, units, files, sockets and the journal of the machine."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.machine import Machine

SERVICE, USER = "app", "app"
OLD = "old"
#: Each line: its name, and its unit.
LINES = {
    "pss_master": ("memory of the master (PSS)", "kB"),
    "pss_workers": ("memory of the workers (PSS)", "kB"),
    "pss": ("memory of master and workers (PSS)", "kB"),
    "rss_master": ("memory of the master (RSS)", "kB"),
    "rss_workers": ("memory of the workers (RSS)", "kB"),
    "rss": ("memory of master and workers (RSS)", "kB"),
    "fds_master": ("file descriptors of the master", ""),
    "fds_workers": ("file descriptors of the workers", ""),
    "processes": ("processes of the service", ""),
    OLD: ("processes left of the generation before", ""),
    "scopes": ("scopes of old workers", ""),
    "units": ("units that systemd has loaded", ""),
    "failed_units": ("failed units", ""),
    "cgroups": ("control groups", ""),
    "all_processes": ("processes of the machine", ""),
    "systemd_pss": ("memory of systemd, PID 1 (PSS)", "kB"),
    "systemd_fds": ("file descriptors of systemd, PID 1", ""),
    "tcp_sockets": ("TCP sockets", ""),
    "unix_sockets": ("Unix sockets", ""),
    "files": ("files in /run, /tmp and /dev/shm", ""),
    "run": ("size of /run, without the journal", "kB"),
    "journal_entries": ("journal entries of a restart", ""),
    "journal_warnings": ("warnings and errors of a restart in the journal", ""),
}
_TEMPORARY = ("/run", "/tmp", "/dev/shm")  # noqa: S108 (the machine's)
_WARNING = 4  #: priority in the journal: warnings, and what is worse
_LISTED = 20  #: messages that are kept of each sample


@dataclass
class Sample:
    """The lines at one moment."""

    lines: dict[str, float]
    warnings: list[str] = field(default_factory=list)  #: messages since the sample before


class Sampler:
    """Measures a machine, again and again."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._proc = machine.path("/proc")
        passwd = machine.path("/etc/passwd").read_text().splitlines()
        self._uid = next(int(fields[2]) for fields in (line.split(":") for line in passwd) if fields[0] == USER)
        self._cursor = ""
        self._workers: set[str] = set()
        self._old: set[str] = set()
        self._read_journal()

    def restarted(self) -> None:
        """Note that the workers of the last sample are to go."""
        self._old = self._workers

    def has_settled(self) -> bool:
        """Return whether these workers have gone. While they are there, memory that is shared looks like less."""
        return not self._old.intersection(self._processes_of_user())

    def sample(self) -> Sample:
        """Measure. Journal entries are those since the sample before."""
        master = self._machine.show(SERVICE, "MainPID")
        ours = self._processes_of_user()
        workers = [pid for pid in ours if pid != master]
        units = [line.split() for line in self._list_units()]
        entries = self._read_journal()
        bad = [entry for entry in entries if int(entry.get("PRIORITY", 6)) <= _WARNING]
        lines = {
            **self._memory([master], workers),
            "fds_master": self._fds([master]),
            "fds_workers": self._fds(workers),
            "processes": len(ours),
            OLD: len(self._old.intersection(workers)),
            "scopes": sum(unit[0].startswith(f"{SERVICE}-drain-") for unit in units),
            "units": len(units),
            "failed_units": sum("failed" in unit[1:4] for unit in units),
            "cgroups": sum(1 for _ in os.walk(self._machine.path("/sys/fs/cgroup"))),
            "all_processes": sum(each.name.isdigit() for each in self._proc.iterdir()),
            "systemd_pss": self._rollup(["1"])["Pss"],
            "systemd_fds": self._fds(["1"]),
            **self._sockets(),
            **self._files(),
            "journal_entries": len(entries),
            "journal_warnings": len(bad),
        }
        self._workers = set(workers)
        return Sample(lines, [_message(entry) for entry in bad[:_LISTED]])

    def _list_units(self) -> list[str]:
        return self._machine.systemctl("list-units", "--all", "--plain", "--no-legend").stdout.splitlines()

    def _processes_of_user(self) -> list[str]:
        found = []
        for path in self._proc.iterdir():
            try:
                if path.name.isdigit() and path.stat().st_uid == self._uid:
                    found.append(path.name)
            except FileNotFoundError:  # it has just exited
                pass
        return found

    def _memory(self, master: list[str], workers: list[str]) -> dict[str, float]:
        one, others = self._rollup(master), self._rollup(workers)
        lines: dict[str, float] = {}
        for measure in ("Pss", "Rss"):
            name = measure.lower()
            lines |= {f"{name}_master": one[measure], f"{name}_workers": others[measure]}
            lines[name] = one[measure] + others[measure]
        return lines

    def _rollup(self, pids: list[str]) -> dict[str, int]:
        """Return the memory of processes, in kB."""
        total = {"Pss": 0, "Rss": 0}
        for pid in pids:
            try:
                text = (self._proc / pid / "smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in total:
                    total[name] += int(value.split()[0])
        return total

    def _fds(self, pids: list[str]) -> int:
        count = 0
        for pid in pids:
            try:
                count += len(os.listdir(self._proc / pid / "fd"))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return count

    def _sockets(self) -> dict[str, float]:
        net = Path(f"/proc/{self._machine.leader}/net")
        tcp = next(line.split() for line in (net / "sockstat").read_text().splitlines() if line.startswith("TCP:"))
        unix = len((net / "unix").read_text().splitlines()) - 1
        return {"tcp_sockets": int(tcp[tcp.index("inuse") + 1]), "unix_sockets": unix}

    def _files(self) -> dict[str, float]:
        journal = self._machine.path("/run/log")
        files, blocks = 0, 0
        for place in _TEMPORARY:
            for status in _statuses(self._machine.path(place), journal):
                files += 1
                if place == "/run" and stat.S_ISREG(status.st_mode):
                    blocks += status.st_blocks
        return {"files": files, "run": blocks / 2}

    def _read_journal(self) -> list[dict[str, Any]]:
        """Return the entries since the last call; of the first one, none."""
        options = [f"--after-cursor={self._cursor}"] if self._cursor else ["--lines=1"]
        fields = "--output-fields=PRIORITY,MESSAGE,SYSLOG_IDENTIFIER"
        text = self._machine.run("journalctl", "--no-pager", "--quiet", "--output=json", fields, *options).stdout
        entries: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        known = bool(self._cursor)
        if entries:
            self._cursor = entries[-1]["__CURSOR"]
        return entries if known else []


def _message(entry: dict[str, Any]) -> str:
    return f"{entry.get('SYSLOG_IDENTIFIER', '')}: {str(entry.get('MESSAGE', ''))[:300]}"


def _statuses(folder: Path, without: Path) -> Iterator[os.stat_result]:
    """Return the status of all files below a folder, folders included; what disappears meanwhile is left out."""
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(path, name) != without]
        for name in (*folders, *names):
            try:
                yield os.lstat(Path(path, name))
            except FileNotFoundError:
                continue
