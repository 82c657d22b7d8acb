"""Settings for gunicorn: ``gunicorn -c python:flask_socketact.conf app:app``.

A configuration of your own builds on it with ``from flask_socketact.conf import *`` and
may set anything again, server hooks included: this module defines none, so none gets
lost. ``GUNICORN_CMD_ARGS`` and the command line win over both, as always.

Every name here that equals a setting of gunicorn *is* that setting.
"""

import os as _os

from flask_socketact.master.arbiter import install as _install

_install()

# Natively to the journal, where the output goes there; otherwise gunicorn's logging, as it is.
logger_class = "flask_socketact.journal.Logger"

worker_class = "flask_socketact.workers.thread.ThreadWorker"

# A process uses one CPU; with two, one serves while the other is replaced.
# WEB_CONCURRENCY is gunicorn's own variable for it.
workers = int(_os.environ.get("WEB_CONCURRENCY") or max(2, len(_os.sched_getaffinity(0))))
threads = 4

# The drain time in seconds: how long requests in flight may take to end.
# TimeoutStopSec= of the unit must be longer.
graceful_timeout = 30

# Seconds that an idle connection stays open. Longer than nginx and load balancers keep
# theirs (60), so that it is they who close it and not we, while they send a request.
keepalive = 75

# A connection that waits holds a descriptor and some kilobytes of memory, but no thread. LimitNOFILE= of the
# unit must be higher.
worker_connections = 10000

# Heartbeats go to memory: a slow or full disk must not get a worker killed.
worker_tmp_dir = "/dev/shm" if _os.access("/dev/shm", _os.W_OK) else None  # noqa: S108 (mkstemp)

# Its path would be shared by all services of a user. systemctl is the way to control one.
control_socket_disable = True
