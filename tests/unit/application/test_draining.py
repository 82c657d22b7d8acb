"""What the extension offers for drains, under another server: nothing drains there."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask

from flask_socketact import SocketAct


def test_at_drain_calls_nothing() -> None:
    calls: list[int] = []
    with SocketAct().at_drain(calls.append, 1):
        pass
    assert not calls


def test_until_drain_yields_everything_and_closes_the_generator() -> None:
    ended = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            ended.append(True)

    assert list(SocketAct().until_drain(numbers())) == [0, 1, 2]
    first = SocketAct().until_drain(numbers(), print, "woken")
    assert next(first) == 0
    first.close()  # type: ignore[attr-defined]  # a generator
    assert len(ended) == 2


def test_streams_are_ordinary_views() -> None:
    app = Flask(__name__)
    socketact = SocketAct(app)

    @app.get("/<name>")
    @socketact.stream
    def poll(name: str) -> str:
        """Wait for news."""
        return name

    @app.get("/coroutine")
    @socketact.stream
    async def coroutine() -> str:
        return "coroutine"

    assert poll.__doc__ == "Wait for news."
    client = app.test_client()
    assert client.get("/news").text == "news"
    assert client.get("/coroutine").text == "coroutine"
