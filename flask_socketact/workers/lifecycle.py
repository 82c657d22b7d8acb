"""What our worker classes share: how a worker boots, drains, and tells the application of it."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

from gunicorn.workers.base import Worker

from flask_socketact.mailbox import Mailbox
from flask_socketact.scoreboard import Field, Scoreboard, Slot

#: How long an idle connection stays open in a drain, for a request that its client may have sent already. Seconds.
LINGER = 2.0


def listener_name(listener: Any) -> str | None:
    """Return ``FileDescriptorName=`` of a listener; None when it is not systemd's."""
    return getattr(listener, "fdname", None)


class Lifecycle(Worker):
    """Mixed into gunicorn's worker classes, before them."""

    #: Set by the master before it forks.
    board: Scoreboard
    slot: Slot
    mailbox: Mailbox | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.orphaned = False

    def init_process(self) -> None:
        if not hasattr(self, "slot"):  # a master that is not ours
            self.board = Scoreboard()
            self.slot = self.board.take(self.ppid, self.cfg.threads)
        self.slot[Field.PID] = os.getpid()
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application. One that leaves (``SystemExit``) while it is imported cannot boot:
        gunicorn would start it again and again."""
        try:
            super().load_wsgi()
        except SystemExit as error:
            if not self.alive:  # handle_exit
                raise
            raise RuntimeError(f"the application left with {error.code!r} while it was imported") from error

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a worker that still loads the application and has nothing to finish leaves at once."""
        super().handle_exit(sig, frame)
        self.slot[Field.DRAINING] = 1
        if not self.booted and not self.has_mail():
            sys.exit(0)

    def has_mail(self) -> bool:
        """Whether connections wait for this worker, or another, to take them from the mailbox."""
        return False

    def is_draining(self) -> bool:
        """Whether this worker takes nothing new and leaves when it has nothing left."""
        return not self.alive

    def is_parent_alive(self) -> bool:
        """Whether the master is there. Without it the drain begins, as after SIGTERM."""
        if not self.orphaned and self.ppid != os.getppid():
            self.orphaned = True
            self.alive = False
            self.log.info("The master has died, draining: %s", self)
        return not self.orphaned

    def describe_request(self, environ: dict[str, Any], listener: str | None) -> None:
        """Tell the application by which listener a request came (only under activation), and of the drain."""
        if listener is not None:
            environ["socketact.listener"] = listener
        environ["socketact.draining"] = self.is_draining
