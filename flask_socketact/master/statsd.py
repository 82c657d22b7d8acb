"""The numbers that gunicorn logs for statsd in its own ``manage_workers()``, which ours does not call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool


def log_numbers(pool: Pool) -> None:
    """Log how many workers do not drain, when that has changed; and with ``enable_backlog_metric`` what is queued."""
    number = len(pool.WORKERS) - len(pool.draining)
    if number != pool._last_logged_active_worker_count:
        pool._last_logged_active_worker_count = number
        _log(pool, "gunicorn.workers", "gauge", number, "%s workers")
    if pool.cfg.enable_backlog_metric:
        backlog = sum(listener.get_backlog() or 0 for listener in pool.LISTENERS)
        if backlog >= 0:  # negative: the platform cannot say
            _log(pool, "gunicorn.backlog", "histogram", backlog, "socket backlog: %s")


def _log(pool: Pool, metric: str, kind: str, value: int, text: str) -> None:
    pool.log.debug(text, value, extra={"metric": metric, "value": value, "mtype": kind})
