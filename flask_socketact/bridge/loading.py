"""What holds while a process loads the application: a worker; or a loader, once for all workers."""

from __future__ import annotations

# Werkzeug needs this codec to route a request, and would import it for the first one, in each worker: 10 ms.
import encodings.idna  # noqa: F401
import faulthandler
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask_socketact import env
from flask_socketact.bridge import server_info
from flask_socketact.bridge.children import end_child
from flask_socketact.errors import CountersError
from flask_socketact.linux.descriptors import STDERR
from flask_socketact.shared import metric_files


@contextmanager
def loading(
    server: server_info.Server, log: Any, *, is_told_to_exit: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Tell the application about `server`, and write the stack to the journal when the load timeout expires. A process
    that the application forks meanwhile exits at the end.

    :param is_told_to_exit: whether this process has been told to exit
    :raises RuntimeError: the application called ``sys.exit()`` while it was imported. For SystemExit gunicorn would
        start the worker again and again.
    """
    server_info.server = server
    try:
        metric_files.use()
    except CountersError as error:
        log.error("%s", error)
    # Just before the master kills it. A signal handler would not do: it does not run while C code blocks.
    faulthandler.dump_traceback_later(env.load_timeout(), file=STDERR)
    process = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != process:
            end_child(error, log)
        if not isinstance(error, SystemExit) or is_told_to_exit():
            raise
        raise RuntimeError(f"the application called sys.exit({error.code!r}) while it was imported") from error
    else:
        if os.getpid() != process:
            end_child(None, log)
    finally:
        faulthandler.cancel_dump_traceback_later()
