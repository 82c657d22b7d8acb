"""A gated reload: new workers start beside the old ones, which go when all of the new ones answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from gunicorn import sock, util
from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.pidfile import Pidfile
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import request_context
from flask_socketact.errors import ReloadError
from flask_socketact.linux.descriptors import STDERR, STDOUT
from flask_socketact.logs import reopen
from flask_socketact.master import config_reload
from flask_socketact.master.failures import Failure
from flask_socketact.master.pool import Pool
from flask_socketact.shared.scoreboard import Field
from flask_socketact.systemd import message_ids

#: Attributes of the master that follow from the settings.
_ATTRIBUTES = (
    "generation",
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
    """What a reload changes in the master, and puts back when it fails, without a file, which may be gone."""

    attributes: dict[str, Any]
    modules: dict[str, ModuleType] = field(default_factory=dict)  #: that the configuration has imported
    streams: dict[int, int] = field(default_factory=dict)  #: copies of stdout and stderr, which capture_output replaces


class ReloadingArbiter(Pool):
    """A master whose reload takes nothing down. One at a time; the loop goes on meanwhile."""

    LISTENERS: list[Any]
    pidfile: Pidfile | None

    def __init__(self, app: BaseApplication) -> None:
        self.load_time = 0.0  #: of the start, in seconds
        self.failure: Failure | None = None  #: why the last reload has failed
        self._reload_wanted = False
        self._before: Before | None = None  # while new workers load
        self._generations = 1
        self.loading_since = time.monotonic()  #: when the last generation began to
        super().__init__(app)

    @property
    def is_loading(self) -> bool:
        """Whether new workers load the application beside those that serve."""
        return self._before is not None

    @property
    def reload_is_due(self) -> bool:
        """Whether a reload is to begin."""
        return self._reload_wanted and self._before is None

    def setup(self, app: BaseApplication) -> None:
        if self._before is not None and app.cfg.preload_app:
            self.log.warning("preload_app is ignored until a restart: a reload leaves the application to the workers")
            app.cfg.set("preload_app", False)
        super().setup(app)

    def handle_hup(self) -> None:
        """Load settings and application anew, when no other reload is at work."""
        if not env.may_overlap(os.environ):
            self.log.error("SIGHUP refused: %s=no, and a reload is an overlap. Use 'systemctl restart'", env.OVERLAP)
            return
        if self._before is not None:
            self.log.info("A reload is at work: the next one waits for its turn")
        self._reload_wanted = True

    def begin_reload(self) -> None:
        """Start the new workers."""
        self._reload_wanted = False
        self._before = before = Before({name: getattr(self, name) for name in _ATTRIBUTES})
        self._stats["reloads"] += 1
        self._generations += 1
        self.generation = self._generations
        self.loading_since = time.monotonic()
        self.report_state()
        try:
            self._configure(before)
            self.manage_workers()
        except Exception as error:  # noqa: BLE001 (hooks and settings are the user's)
            self._fail(Failure.of(error))

    def advance_reload(self) -> None:
        """Let the old workers go, if all of the new ones answer."""
        before = self._before
        if before is None:
            return
        if len(self._loaded()) < self.num_workers:
            return
        self._before = None
        self.foreign = ()
        self.failure = self.trouble = None
        self._retire(self._active(new=False))
        sock.close_sockets(_without(before.attributes["LISTENERS"], self.LISTENERS), unlink=False)
        for copy in before.streams:
            os.close(copy)
        self._move_pidfile(before.attributes["cfg"])
        util._setproctitle(f"master [{self.proc_name}]")
        request_context.generation = request_context.name_generation(self.pid, self.generation)
        self.note_reload(succeeded=True)
        self.log.info("Reloaded: generation %s answers", self.generation, extra=message_ids.RELOADED)
        self.report_state()

    def report_state(self) -> None:
        """Tell of a reload that has begun, or ended: overridden."""

    def note_reload(self, *, succeeded: bool) -> None:
        """Count a reload that has ended: overridden."""

    def manage_workers(self) -> None:
        """Keep the number of workers; in a reload of the new ones alone, as the old ones' release may be no more."""
        if self._before is None:
            super().manage_workers()
            return
        missing = self.num_workers - len(self._active(new=True))
        if missing > 0 and not all(self.spawn_worker() for _ in range(missing)):
            self._fail(self.trouble or Failure.known("no worker can be forked"))

    def handle_death(self, pid: int, worker: Worker, reason: Failure | None) -> bool:
        if worker.slot[Field.GENERATION] > self.generation:  # of a reload that has failed already
            return True
        is_new = worker.slot[Field.GENERATION] == self.generation and not worker.slot[Field.DRAINING]
        if self._before is None or not is_new:
            return super().handle_death(pid, worker, reason)
        self._fail(reason or Failure.known(f"new worker {pid} has died before all of them answered"))
        return True

    def handle_slow_load(self, reason: Failure) -> None:
        if self._before is None:
            super().handle_slow_load(reason)
        else:
            self._fail(reason)

    def stop(self, graceful: bool = True) -> None:
        self._reload_wanted = False
        self._before = None
        super().stop(graceful)

    def _configure(self, before: Before) -> None:
        """Read the configuration, and take the settings over."""
        if self.app.callable is not None:
            raise ReloadError(
                "preload_app: the master has loaded the application, and cannot load it anew. "
                "Use 'systemctl restart', which makes nobody wait either"
            )
        address = self.cfg.address
        config_reload.leave_environment(self.cfg)
        before.modules.update(config_reload.forget_modules(self.cfg))
        config_reload.read_anew(self.app)
        if self.app.cfg.capture_output and not self.cfg.capture_output:
            before.streams.update((os.dup(stream), stream) for stream in (STDOUT, STDERR))
        self.setup(self.app)
        reopen.reopen(self.log)
        if hasattr(self.worker_class, "check_config"):
            self.worker_class.check_config(self.cfg, self.log)
        if self.cfg.address != address:
            self._open_listeners()
        self.cfg.on_reload(self)

    def _open_listeners(self) -> None:
        """Open those that are new, where systemd does not pass them; the others stay open."""
        listeners = {listener.cfg_addr: listener for listener in self.LISTENERS}
        bind, addresses = self.cfg.settings["bind"].get(), self.cfg.address
        missing = [text for text, address in zip(bind, addresses, strict=True) if address not in listeners]
        self.cfg.set("bind", missing)
        try:
            opened = sock.create_sockets(self.cfg, self.log) if missing else []
        except SystemExit:
            raise ReloadError(f"cannot listen at bind = {missing}") from None
        finally:
            self.cfg.set("bind", bind)
        listeners |= {listener.cfg_addr: listener for listener in opened}
        self.foreign = _without(self.LISTENERS, kept := [listeners[address] for address in addresses])
        self.LISTENERS = kept
        self.log.info("Listening at: %s", ",".join(map(str, self.LISTENERS)))

    def _fail(self, reason: Failure) -> None:
        """Drop the new workers, and go on with the old ones."""
        before, self._before = self._before, None
        if before is None:
            return
        self.failure = reason
        self.note_reload(succeeded=False)
        self.log.error(
            "Reload failed, the workers from before serve on: %s", reason.text, extra=message_ids.RELOAD_FAILED
        )
        self._retire(self._active(new=True))
        sock.close_sockets(_without(self.LISTENERS, before.attributes["LISTENERS"]), unlink=False)
        self._restore(before)
        self.report_state()

    def _restore(self, before: Before) -> None:
        """Put everything back; what cannot be (settings that make no sense) is told, and ends nothing."""
        failed = self.cfg
        for name, value in before.attributes.items():
            setattr(self, name, value)
        self.foreign = ()
        self.app.cfg = self.cfg
        sys.modules.update(before.modules)
        for step in (
            lambda: config_reload.leave_environment(failed),
            lambda: os.environ.update(self.cfg.env),
            lambda: os.chdir(self.cfg.chdir),
            lambda: _put_back(before.streams),
            lambda: self.log.setup(self.cfg),
        ):
            try:
                step()
            except Exception:
                self.log.exception("Not all settings from before could be put back")

    def _retire(self, pids: Iterable[int]) -> None:
        for pid in pids:
            self.retired.add(pid)
            self.dismiss(pid)

    def _active(self, *, new: bool) -> list[int]:
        """Return the pids of workers that do not drain: those of this generation, or those of others."""
        return [
            pid
            for pid, worker in self.WORKERS.items()
            if not worker.slot[Field.DRAINING] and (worker.slot[Field.GENERATION] == self.generation) is new
        ]

    def _loaded(self) -> list[int]:
        """Return the pids of workers of this generation that have begun to answer, and may drain by now."""
        return [pid for pid in self.readiness.accepting if self.WORKERS[pid].slot[Field.GENERATION] == self.generation]

    def _move_pidfile(self, before: Config) -> None:
        if self.cfg.pidfile == before.pidfile:
            return
        if self.pidfile is not None:
            self.pidfile.unlink()
            self.pidfile = None
        if self.cfg.pidfile is not None:
            with suppress(OSError, RuntimeError):
                self.pidfile = Pidfile(self.cfg.pidfile)
                self.pidfile.create(os.getpid())


def _without(listeners: list[Any], others: list[Any]) -> list[Any]:
    return [listener for listener in listeners if listener not in others]


def _put_back(streams: dict[int, int]) -> None:
    for copy, descriptor in streams.items():
        os.dup2(copy, descriptor)
        os.close(copy)
