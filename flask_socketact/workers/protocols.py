"""Which versions of HTTP a worker speaks."""

from __future__ import annotations

from gunicorn.config import Config

from flask_socketact.errors import SettingsError


def refuse_http2(cfg: Config) -> None:
    """Refuse settings that ask for HTTP/2, for a worker that does not speak it.

    :raises SettingsError: ``http_protocols`` has ``h2``.
    """
    if "h2" in cfg.http_protocols:
        raise SettingsError(
            f"http_protocols = {','.join(cfg.http_protocols)}: {cfg.worker_class.__name__} does not speak HTTP/2. "
            "Remove h2: nginx or HAProxy can speak it with clients. "
            "Or use worker_class = 'flask_socketact.workers.gevent.GeventWorker'"
        )
