"""What the relay, the master and the workers agree upon: the name of the scope of old workers, and the signals to them.

The relay is a shell script that root runs, so it cannot import this; tests compare it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

from flask_socketact.linux import proc
from flask_socketact.systemd import cgroup, unit_names

#: From the new master: drain, and hand connections over. Programs that requests have started ignore it by default.
DRAIN = signal.SIGURG
#: From systemd (``KillSignal=`` of the scope) when the service stops: drain, and hand nothing over. Other programs
#: ignore it by default, too.
STOP = signal.SIGWINCH
#: From the new master and from ``relay reopen``: reopen log files.
REOPEN = signal.SIGUSR1

#: NAME-drain-PID-START.scope: pid and start time of the master. The relay of version 0.1.0, which a restart to a newer
#: version still calls, leaves the start time out. app@1.service has app:1-drain-….scope.
_SCOPE = r"-drain-(\d+)(?:-\d+)?\.scope"


def scopes(service: str) -> Iterator[str]:
    """Return the control groups of the scopes to which workers of a service have been moved.

    :param service: control group of the service, as ``/system.slice/app.service``
    """
    slice_, _, unit = service.rpartition("/")
    scope = re.compile(re.escape(unit_names.scope_stem(unit.removesuffix(".service"))) + _SCOPE)
    return (f"{slice_}/{name}" for name in cgroup.children(slice_) if scope.fullmatch(name))


def master_of(scope: str) -> int:
    """Return the pid of the master from which the workers in a scope were forked; 0 if `scope` is not of ours."""
    found = re.search(_SCOPE + "$", scope)
    return int(found[1]) if found else 0


def scope_endings(master: int) -> tuple[str, str]:
    """Return how the name of the scope of a running master's workers can end.

    :raises OSError: the master has exited.
    """
    return f"-drain-{master}.scope", f"-drain-{master}-{proc.start_time(master)}.scope"
