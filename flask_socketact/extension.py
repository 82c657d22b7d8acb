"""The Flask side: what the application knows about the server that runs it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, request

from flask_socketact import health


class SocketAct:
    """Flask extension: health endpoints, and what the server says about a request.

    .. code-block:: python

        socketact = SocketAct()
        socketact.init_app(app)  # or SocketAct(app)

    Configuration, read by :meth:`init_app` and not again after that:

    ``SOCKETACT_HEALTHZ`` (str or None, default ``"/healthz"``)
        path of the liveness endpoint; None switches it off.
    ``SOCKETACT_READYZ`` (str or None, default ``"/readyz"``)
        path of the readiness endpoint, 503 while draining; None switches it off.

    The same application runs under ``flask run`` and the test client: there no listener
    has a name, and nothing drains.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with `app`.

        :raises RuntimeError: `app` has a SocketAct already.
        :raises ValueError: a configuration key has a value that cannot be used.
        """
        if "socketact" in app.extensions:
            raise RuntimeError(
                "A 'SocketAct' instance has already been registered on this Flask app. "
                "Import and use that instance instead."
            )
        app.config.setdefault("SOCKETACT_HEALTHZ", "/healthz")
        app.config.setdefault("SOCKETACT_READYZ", "/readyz")
        app.register_blueprint(
            health.blueprint(
                healthz=app.config["SOCKETACT_HEALTHZ"],
                readyz=app.config["SOCKETACT_READYZ"],
                draining=lambda: self.draining,
            )
        )
        app.extensions["socketact"] = self

    @property
    def listener(self) -> str | None:
        """``FileDescriptorName=`` of the listener that the current request came by.

        None when systemd did not pass the listener.

        :raises RuntimeError: there is no current request.
        """
        name: str | None = request.environ.get("socketact.listener")
        return name

    @property
    def draining(self) -> bool:
        """Whether the worker of the current request takes nothing new and leaves soon.

        Changes while a request runs: a long answer can ask for it again and again.

        :raises RuntimeError: there is no current request.
        """
        is_draining: Callable[[], bool] | None = request.environ.get("socketact.draining")
        return is_draining is not None and is_draining()
