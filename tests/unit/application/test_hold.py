"""Holds under another server: they are counted, and nothing waits for them."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from flask_socketact import SocketAct
from flask_socketact.bridge import holds


def names() -> list[str]:
    return [held.name for held in holds.current()]


def test_context_manager() -> None:
    hold = SocketAct().hold("a")
    with hold, hold, SocketAct().hold("b"):
        assert names() == ["a", "a", "b"]
    assert not names()


def test_released_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), SocketAct().hold("a"):
        raise ZeroDivisionError
    assert not names()


def test_decorator() -> None:
    @SocketAct().hold("send")
    def send(number: int) -> list[str]:
        """Send a mail."""
        return names() * number

    assert send(2) == ["send", "send"]
    assert send.__doc__ == "Send a mail."
    assert not names()


def test_decorator_of_a_coroutine_function() -> None:
    @SocketAct().hold("send")
    async def send() -> list[str]:
        await asyncio.sleep(0)
        return names()

    assert asyncio.run(send()) == ["send"]
    assert not names()


def test_threads() -> None:
    inside, end = threading.Event(), threading.Event()

    def work() -> None:
        with SocketAct().hold("thread"):
            inside.set()
            end.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    assert names() == ["thread"]
    end.set()
    thread.join()
    assert not names()


def test_forked_child_has_no_holds() -> None:
    with SocketAct().hold("parent"):
        child = os.fork()
        if child == 0:
            os._exit(len(names()))
        assert os.waitpid(child, 0)[1] == 0
        assert names() == ["parent"]
