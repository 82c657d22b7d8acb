"""Settings for gunicorn: ``gunicorn -c python:flask_socketact.conf app:app``.

Your own configuration can build on it with ``from flask_socketact.conf import *`` and override any
setting. ``SOCKETACT_CONFIG`` names a file that was written for gunicorn alone: its settings override these, too. This
module defines no server hooks, so it never replaces yours. ``GUNICORN_CMD_ARGS`` and the command line override both, as
always.

Every public name in this module is a setting of gunicorn.
"""

import os as _os

from flask_socketact import env as _env
from flask_socketact.master import own_config as _own_config
from flask_socketact.master.arbiter import install as _install

_install()

# Logs natively to the journal if stdout and stderr go there; otherwise as gunicorn does.
logger_class = "flask_socketact.journal.Logger"

worker_class = "flask_socketact.workers.thread.ThreadWorker"

# One for each CPU, but at least two: one serves while the other is replaced.
# WEB_CONCURRENCY is gunicorn's own variable for this.
workers = int(_os.environ.get("WEB_CONCURRENCY") or max(2, len(_os.sched_getaffinity(0))))
threads = 4

# The drain time in seconds: how long requests in flight may take to finish.
# TimeoutStopSec= of the unit must be longer.
graceful_timeout = 30

# Seconds that an idle connection stays open. nginx and load balancers close theirs after 60; ours stay open longer,
# so that we do not close one on which they are just sending a request.
keepalive = 75

# An idle connection needs a descriptor and some kilobytes of memory, but no thread. LimitNOFILE= of the unit must be
# higher.
worker_connections = 10000

# Heartbeat files in memory: the master must not kill a worker because a disk is slow or full.
worker_tmp_dir = "/dev/shm" if _os.access("/dev/shm", _os.W_OK) else None  # noqa: S108 (mkstemp)

# All services of a user would share its path. Control a service with systemctl.
control_socket_disable = True

if _file := _os.environ.get(_env.CONFIG):
    globals().update(_own_config.read(_file))
