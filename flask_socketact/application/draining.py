"""What an application can know of a drain, and what it can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

from flask import abort, current_app, has_request_context, request

from flask_socketact.application import websockets
from flask_socketact.application.hold import Hold
from flask_socketact.bridge import drain_calls, keys, server_info

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Draining:
    """The part of the extension that is about drains."""

    @property
    def draining(self) -> bool:
        """Whether this worker drains: it accepts no new connections, and exits when its requests have ended.

        It may become true while a request runs, so a long response can read it from time to time. Threads of the
        application can read it without a request.

        .. code-block:: python

            while not socketact.draining:
                yield next_event()
        """
        is_draining: Callable[[], bool] | None = None
        if has_request_context():
            is_draining = request.environ.get(keys.DRAINING)
        elif server_info.server is not None:
            is_draining = server_info.server.is_draining
        return is_draining is not None and is_draining()

    def hold(self, name: str) -> Hold:
        """Mark work that a drain waits for, as it waits for requests.

        The result is a context manager, and a decorator of functions and coroutine functions. Use it in a request,
        after the response, or in a thread of the application.

        .. code-block:: python

            with socketact.hold("send-invoice"):
                smtp.send_message(invoice)

        When the drain time (gunicorn's ``graceful_timeout``) is over, the worker exits all the same, and logs `name`.

        :param name: Name of the work in the log.
        :raises ValueError: `name` is empty, or not a string.
        """
        return Hold(name)

    def stream(self, view: F) -> F:
        """Mark a view function whose response may last: it may send nothing for hours, as in long polling.

        .. code-block:: python

            @app.get("/next")
            @socketact.stream
            def next_message():
                return queue.get()

        It is not taken for a request that hangs. In the thread worker it runs in a thread of its own, next to
        ``threads``; if a worker has ``SOCKETACT_MAX_STREAMS`` of them, the response is 503. Server-sent events
        (``text/event-stream``) need no mark.

        The decorator stands below that of the route.

        :param view: A view function.
        :return: A view function.
        """

        @wraps(view)
        def last(*args: Any, **kwargs: Any) -> Any:
            if server_info.server is not None and not server_info.server.begin_stream():
                abort(503, description="This server has too many streams.")
            return current_app.ensure_sync(view)(*args, **kwargs)

        return cast("F", last)

    def until_drain(self, items: Iterable[T], wake: Callable[..., object] | None = None, *args: Any) -> Iterator[T]:
        """Yield what `items` yields, until this worker begins to drain. A stream then ends between two items.

        .. code-block:: python

            def events():
                queue = subscribe()
                yield from socketact.until_drain(iter(queue.get, None), queue.put, None)

        :param items: A generator or another iterable. A generator is closed at the end.
        :param wake: Called with `args` when the drain begins, to wake a generator that waits. What it yields then is
            yielded, too.
        """
        iterator = iter(items)
        try:
            with self.at_drain(wake, *args) if wake is not None else nullcontext():
                while not self.draining:
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                    yield item
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()

    @contextmanager
    def at_drain(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> Iterator[None]:
        """Call a function when this worker begins to drain, if the block is still running then.

        For responses that do not end by themselves, such as WebSockets: their clients can reconnect to the new workers
        at once.

        .. code-block:: python

            @sock.route("/chat")
            def chat(ws):
                with socketact.at_drain(ws.close, 1012, "restart"):
                    ...

        The function is called once, in a thread of its own; at once, if the worker drains already. An error that it
        raises is logged, unless it says that the client has gone. Other servers never call it.

        :param function: Called with the other arguments.
        """

        def run() -> None:
            try:
                function(*args, **kwargs)
            except Exception as error:
                if not websockets.is_closed(error):
                    raise

        call = drain_calls.add(run)
        try:
            yield
        finally:
            drain_calls.discard(call)
