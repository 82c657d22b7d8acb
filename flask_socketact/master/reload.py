"""A gated reload: new workers start next to the old ones, which drain when all new ones accept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gunicorn import sock, util
from gunicorn.config import Config
from gunicorn.pidfile import Pidfile
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import request_context
from flask_socketact.errors import ReloadError
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux.descriptors import STDERR, STDOUT
from flask_socketact.logs import reopen
from flask_socketact.master import config_reload
from flask_socketact.master.failures import Failure
from flask_socketact.shared.slot import Field
from flask_socketact.systemd import message_ids

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter

#: Attributes of the master that follow from the settings.
_ATTRIBUTES = (
    "generation",
    "loader",
    "cfg",
    "worker_class",
    "address",
    "timeout",
    "proc_name",
    "LISTENERS",
    "_num_workers",
    "load_timeout",
)


@dataclass(frozen=True)
class Before:
    """What a reload changes in the master. A failed reload restores it from here, as the files may be gone."""

    attributes: dict[str, Any]
    modules: dict[str, ModuleType] = field(default_factory=dict)  #: imported by the configuration
    streams: dict[int, int] = field(
        default_factory=dict
    )  #: copies of stdout and stderr, if capture_output replaces these


class Reloads:
    """The reloads of one master: one at a time, while its loop continues. A reload that fails changes nothing."""

    def __init__(self, master: Arbiter) -> None:
        self._master = master
        self.load_time = 0.0  #: of the start; seconds
        self.loading_since = time.monotonic()  #: when the newest generation began to load; CLOCK_MONOTONIC, seconds
        self.failure: Failure | None = None  #: why the last reload failed
        self._is_wanted = False
        self._before: Before | None = None  # set while new workers load
        self._generations = 1

    @property
    def is_loading(self) -> bool:
        """Whether new workers load the application, while the old ones serve."""
        return self._before is not None

    @property
    def is_due(self) -> bool:
        """Whether a reload is to begin."""
        return self._is_wanted and self._before is None

    def ask(self) -> None:
        """Begin a reload, as soon as no other is in progress."""
        log = self._master.log
        if not env.may_overlap(os.environ):
            log.error(
                "SIGHUP refused: %s=no, and in a reload old and new workers overlap. Use 'systemctl restart'",
                env.OVERLAP,
            )
            return
        if self._before is not None:
            log.info("A reload is in progress: the next one begins after it")
        self._is_wanted = True

    def cancel(self) -> None:
        """Forget the reload, as the service stops."""
        self._is_wanted = False
        before, self._before = self._before, None
        if before is not None:
            self._master.retire_loader(before.attributes["loader"])

    def begin(self) -> None:
        """Start the new workers."""
        master = self._master
        self._is_wanted = False
        self._before = before = Before({name: getattr(master, name) for name in _ATTRIBUTES})
        master.loader = None
        master._stats["reloads"] += 1
        self._generations += 1
        master.generation = self._generations
        self.loading_since = time.monotonic()
        master.report_state()
        try:
            self._configure(before)
            reached(Step.MASTER_RELOADS)
            master.manage_workers()
        except Exception as error:  # noqa: BLE001 (hooks and settings are the user's code)
            self.fail(Failure.of(error))

    def advance(self) -> None:
        """Let the old workers drain, if all new ones accept."""
        before, master = self._before, self._master
        if before is None or len(self._loaded()) < master.num_workers:
            return
        reached(Step.MASTER_HAS_RELOADED)
        self._before = None
        master.dropped_listeners = ()
        self.failure = master.shortage = None
        self._retire(self._active(new=False))
        master.retire_loader(before.attributes["loader"])
        sock.close_sockets(_without(before.attributes["LISTENERS"], master.LISTENERS), unlink=False)
        for copy in before.streams:
            os.close(copy)
        self._move_pidfile(before.attributes["cfg"])
        util._setproctitle(f"master [{master.proc_name}]")
        request_context.generation = request_context.name_generation(master.pid, master.generation)
        master.note_reload(succeeded=True)
        master.log.info("Reloaded: generation %s serves", master.generation, extra=message_ids.RELOADED)
        master.report_state()

    def keep_number(self) -> None:
        """Fork missing new workers. Old ones are not replaced: their release may be removed by now."""
        master = self._master
        for _ in range(master.num_workers - len(self._active(new=True))):
            if not master.can_fork():
                return
            if not master.spawn_worker():
                self.fail(master.shortage or Failure.known("no worker can be forked"))
                return

    def has_lost(self, pid: int, worker: Worker, reason: Failure | None) -> bool:
        """Return whether a worker that has exited was forked by a reload, which fails if it is in progress."""
        generation = self._master.generation
        if worker.slot[Field.GENERATION] > generation:  # of a reload that failed before
            return True
        is_new = worker.slot[Field.GENERATION] == generation and not worker.slot[Field.DRAINING]
        if self._before is None or not is_new:
            return False
        self.fail(reason or Failure.known(f"new worker {pid} exited before all new workers accepted"))
        return True

    def fail(self, reason: Failure) -> bool:
        """Let the new workers drain, and keep the old ones; return False if there is no reload that could fail."""
        master = self._master
        before, self._before = self._before, None
        if before is None:
            return False
        self.failure = reason
        master.board.note_failed_reload()
        master.note_reload(succeeded=False)
        master.log.error(
            "Reload failed, the old workers keep serving: %s", reason.text, extra=message_ids.RELOAD_FAILED
        )
        self._retire(self._active(new=True))
        master.end_loader()
        sock.close_sockets(_without(master.LISTENERS, before.attributes["LISTENERS"]), unlink=False)
        self._restore(before)
        master.report_state()
        return True

    def _configure(self, before: Before) -> None:
        """Read the configuration, and apply the settings."""
        master = self._master
        address = master.cfg.address
        config_reload.leave_environment(master.cfg)
        before.modules.update(config_reload.forget_modules(master.cfg))
        config_reload.read_again(master.app)
        if master.app.cfg.capture_output and not master.cfg.capture_output:
            before.streams.update((os.dup(stream), stream) for stream in (STDOUT, STDERR))
        master.setup(master.app)
        reopen.reopen(master.log)
        if hasattr(master.worker_class, "check_config"):
            master.worker_class.check_config(master.cfg, master.log)
        if master.cfg.address != address:
            self._open_listeners()
        master.cfg.on_reload(master)

    def _open_listeners(self) -> None:
        """Open listeners that are new in ``bind``, without systemd; the others stay open."""
        master = self._master
        listeners = {listener.cfg_addr: listener for listener in master.LISTENERS}
        bind, addresses = master.cfg.settings["bind"].get(), master.cfg.address
        missing = [text for text, address in zip(bind, addresses, strict=True) if address not in listeners]
        master.cfg.set("bind", missing)
        try:
            opened = sock.create_sockets(master.cfg, master.log) if missing else []
        except SystemExit:
            raise ReloadError(f"cannot listen at bind = {missing}") from None
        finally:
            master.cfg.set("bind", bind)
        listeners |= {listener.cfg_addr: listener for listener in opened}
        master.dropped_listeners = _without(master.LISTENERS, kept := [listeners[address] for address in addresses])
        master.LISTENERS = kept
        master.log.info("Listening at: %s", ",".join(map(str, master.LISTENERS)))

    def _restore(self, before: Before) -> None:
        """Restore everything; a step that fails (a setting that makes no sense) is logged, and stops nothing."""
        master = self._master
        failed = master.cfg
        for name, value in before.attributes.items():
            setattr(master, name, value)
        master.dropped_listeners = ()
        master.app.cfg = master.cfg
        sys.modules.update(before.modules)
        for step in (
            lambda: config_reload.leave_environment(failed),
            lambda: os.environ.update(master.cfg.env),
            lambda: os.chdir(master.cfg.chdir),
            lambda: _restore_streams(before.streams),
            lambda: master.log.setup(master.cfg),
        ):
            try:
                step()
            except Exception:
                master.log.exception("After the failed reload, not all settings could be restored")

    def _retire(self, pids: Collection[int]) -> None:
        master = self._master
        master.retired.update(pids)
        master.drain_workers(pids)

    def _active(self, *, new: bool) -> list[int]:
        """Return the pids of workers that do not drain: those of this generation (`new`), or the others."""
        master = self._master
        return [
            pid
            for pid, worker in master.WORKERS.items()
            if not worker.slot[Field.DRAINING] and (worker.slot[Field.GENERATION] == master.generation) is new
        ]

    def _loaded(self) -> list[int]:
        """Return the pids of workers of this generation that have accepted; some may drain by now."""
        master = self._master
        return [
            pid for pid in master.reports.accepting if master.WORKERS[pid].slot[Field.GENERATION] == master.generation
        ]

    def _move_pidfile(self, before: Config) -> None:
        master = self._master
        if master.cfg.pidfile == before.pidfile:
            return
        if master.pidfile is not None:
            master.pidfile.unlink()
            master.pidfile = None
        if master.cfg.pidfile is not None:
            with suppress(OSError, RuntimeError):
                master.pidfile = Pidfile(master.cfg.pidfile)
                master.pidfile.create(os.getpid())


def _without(listeners: list[Any], others: list[Any]) -> list[Any]:
    return [listener for listener in listeners if listener not in others]


def _restore_streams(streams: dict[int, int]) -> None:
    for copy, descriptor in streams.items():
        os.dup2(copy, descriptor)
        os.close(copy)
