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


def test_an_open_breaker_does_not_call_the_function() -> None:
    called: list[int] = []
    with pytest.raises(pybreaker.CircuitBreakerError):
        tripped().call(called.append, 1)
    assert not called


def test_fallback_is_called_on_failure_and_while_the_breaker_is_open() -> None:
    breaker = SocketAct().breaker("inventory", fail_max=2, fallback=lambda sku: f"no {sku}")

    @breaker
    def stock(sku: str) -> str:
        """Return the stock."""
        raise ConnectionError(sku)

    assert [stock("a") for _ in range(4)] == ["no a"] * 4
    assert breaker.current_state == "open"
    assert stock.__doc__ == "Return the stock."


def test_excluded_exception_is_not_a_failure() -> None:
    breaker = SocketAct().breaker("inventory", fail_max=1, exclude=[KeyError], fallback=lambda: "fallback")

    @breaker
    def stock() -> str:
        raise KeyError("sku")

    with pytest.raises(KeyError):
        stock()
    assert breaker.current_state == "closed"


def test_one_call_tests_whether_the_service_is_available_again() -> None:
    breaker = tripped(reset_timeout=0.05)
    time.sleep(0.06)
    inside, end = threading.Event(), threading.Event()

    def slow() -> str:
        inside.set()
        end.wait(10)
        return "back"

    responses: list[object] = []
    trial = threading.Thread(target=lambda: responses.append(breaker.call(slow)))
    trial.start()
    assert inside.wait(10)
    with pytest.raises(pybreaker.CircuitBreakerError, match="another thread is testing"):
        breaker.call(slow)
    end.set()
    trial.join()
    assert responses == ["back"]
    assert breaker.current_state == "closed"


def test_failed_trial_opens_the_breaker_again() -> None:
    breaker = tripped(reset_timeout=0.05)
    time.sleep(0.06)
    with pytest.raises(ConnectionError):
        breaker.call(failing)
    assert breaker.current_state == "open"


def test_calls_do_not_wait_for_each_other() -> None:
    """pybreaker's own method holds a lock during a call."""
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


def test_name_in_use() -> None:
    socketact = SocketAct()
    socketact.breaker("inventory")
    with pytest.raises(ValueError, match=r"breaker\('inventory'\) exists already"):
        socketact.breaker("inventory")
