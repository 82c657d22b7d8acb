"""Circuit breakers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pybreaker
import pytest

from flask_socketact import SocketAct
from flask_socketact.application.breakers import Breaker


def failing() -> None:
    raise ConnectionError("away")


def tripped(**options: object) -> Breaker:
    breaker = SocketAct().breaker("inventory", fail_max=2, **options)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(ConnectionError, match="away"):
            breaker.call(failing)
    assert breaker.current_state == "open"
    return breaker


def test_open_breaker_calls_nothing() -> None:
    called: list[int] = []
    with pytest.raises(pybreaker.CircuitBreakerError):
        tripped().call(called.append, 1)
    assert not called


def test_fallback_takes_the_place_of_what_fails_and_of_what_is_not_called() -> None:
    breaker = SocketAct().breaker("inventory", fail_max=2, fallback=lambda sku: f"no {sku}")

    @breaker
    def stock(sku: str) -> str:
        """Ask for it."""
        raise ConnectionError(sku)

    assert [stock("a") for _ in range(4)] == ["no a"] * 4
    assert breaker.current_state == "open"
    assert stock.__doc__ == "Ask for it."


def test_error_that_is_no_failure() -> None:
    breaker = SocketAct().breaker("inventory", fail_max=1, exclude=[KeyError], fallback=lambda: "fallback")

    @breaker
    def stock() -> str:
        raise KeyError("sku")

    with pytest.raises(KeyError):
        stock()
    assert breaker.current_state == "closed"


def test_one_call_tries_whether_the_service_is_back() -> None:
    breaker = tripped(reset_timeout=0.05)
    time.sleep(0.06)
    inside, end = threading.Event(), threading.Event()

    def slow() -> str:
        inside.set()
        end.wait(10)
        return "back"

    answers: list[object] = []
    trial = threading.Thread(target=lambda: answers.append(breaker.call(slow)))
    trial.start()
    assert inside.wait(10)
    with pytest.raises(pybreaker.CircuitBreakerError, match="another thread is testing"):
        breaker.call(slow)
    end.set()
    trial.join()
    assert answers == ["back"]
    assert breaker.current_state == "closed"


def test_trial_that_fails_opens_it_again() -> None:
    breaker = tripped(reset_timeout=0.05)
    time.sleep(0.06)
    with pytest.raises(ConnectionError):
        breaker.call(failing)
    assert breaker.current_state == "open"


def test_calls_do_not_wait_for_each_other() -> None:
    """pybreaker's own hold a lock meanwhile."""
    barrier = threading.Barrier(3)
    breaker = SocketAct().breaker("inventory")
    wait: Callable[[], object] = lambda: breaker.call(barrier.wait, 10)  # noqa: E731
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken
    assert breaker.fail_counter == 0


def test_coroutine_function() -> None:
    async def stock() -> None:
        pass

    with pytest.raises(TypeError, match="cannot call the coroutine function stock"):
        SocketAct().breaker("inventory")(stock)


def test_name_that_is_taken() -> None:
    socketact = SocketAct()
    socketact.breaker("inventory")
    with pytest.raises(ValueError, match=r"breaker\('inventory'\) exists already"):
        socketact.breaker("inventory")
