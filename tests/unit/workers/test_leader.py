"""Which thread of a worker serves: two real threads, with real sockets and a real application."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_socketact.shared.slot import Field
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.leader import PROMOTE_AFTER, ThreadPool
from flask_socketact.workers.stand_in import StandIn
from flask_socketact.workers.thread import ThreadWorker
from tests.support import server
from tests.unit.workers.conftest import Dial

Start = Callable[[Callable[..., Any]], ThreadPool]
PATIENCE = 10.0
RESPONSE = b"HTTP/1.1 200 OK"


class Application:
    """Responds with the name of its thread. A request for ``/wait`` blocks until the test lets it continue."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            self.began.release()
            assert self.may_go_on.wait(PATIENCE)
        name = threading.current_thread().name.encode()
        start_response("200 OK", [("Content-Length", str(len(name)))])
        return [name]

    def wait_for_request(self) -> None:
        assert self.began.acquire(timeout=PATIENCE)


@pytest.fixture
def application() -> Iterator[Application]:
    application = Application()
    yield application
    application.may_go_on.set()


@pytest.fixture
def threads(pool: Start, application: Application) -> ThreadPool:
    return pool(application)


def get(client: socket.socket, path: str = "/") -> None:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: app\r\n\r\n".encode())


def thread_of(client: socket.socket) -> str:
    """Read a response, and return the name of the thread that has served it."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        received += client.recv(4096)
    assert received.startswith(RESPONSE)
    return received.partition(b"\r\n\r\n")[2].decode()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_short_requests_are_served_by_one_thread(
    threads: ThreadPool, listener: socket.socket, worker: ThreadWorker
) -> None:
    names = set()
    with server.dial(listener) as first, server.dial(listener) as second:
        for client in (first, second, first, second):
            get(client)
            names.add(thread_of(client))
    assert len(names) == 1
    wait_until(lambda: worker.slot[Field.REQUESTS] == 4)
    wait_until(lambda: worker.slot[Field.IN_FLIGHT] == 0)
    assert threads.are_idle


def test_a_follower_is_promoted_when_the_leader_is_busy(
    threads: ThreadPool, listener: socket.socket, application: Application
) -> None:
    with server.dial(listener) as slow, server.dial(listener) as quick:
        get(slow, "/wait")
        application.wait_for_request()
        time.sleep(PROMOTE_AFTER)
        threads.promote_if_leader_is_busy()  # as the supervisor does when the alarm expires
        get(quick)
        name = thread_of(quick)
        application.may_go_on.set()
        assert thread_of(slow) != name


def test_no_follower_is_promoted_before_the_leader_has_been_busy_for_a_while(
    threads: ThreadPool, listener: socket.socket, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_socketact.workers.leader.PROMOTE_AFTER", 60.0)
    with server.dial(listener) as slow:
        get(slow, "/wait")
        application.wait_for_request()
        leader = threads.leader
        threads.promote_if_leader_is_busy()
        assert threads.leader is leader
        application.may_go_on.set()
        thread_of(slow)


def test_when_all_threads_are_busy_a_request_waits_for_one(
    threads: ThreadPool, listener: socket.socket, application: Application, worker: ThreadWorker
) -> None:
    clients = [server.dial(listener) for _ in range(3)]
    first, second, third = clients
    get(first, "/wait")
    application.wait_for_request()
    time.sleep(PROMOTE_AFTER)
    threads.promote_if_leader_is_busy()
    get(second, "/wait")
    application.wait_for_request()
    time.sleep(PROMOTE_AFTER)
    threads.promote_if_leader_is_busy()  # there is no follower
    get(third)
    assert worker.slot[Field.IN_FLIGHT] == 2
    assert not threads.are_idle
    third.settimeout(0.05)
    with pytest.raises(TimeoutError):
        third.recv(1)
    third.settimeout(PATIENCE)
    application.may_go_on.set()
    for client in clients:
        thread_of(client)
        client.close()


def test_requests_of_one_connection_are_served_in_their_order(threads: ThreadPool, listener: socket.socket) -> None:
    """Also if both arrive at once."""
    with server.dial(listener) as client:
        client.sendall(2 * b"GET / HTTP/1.1\r\nHost: app\r\n\r\n" + b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := client.recv(4096):
            received += data
    versions = [line.partition(b" 200 ")[0][-8:] for line in received.splitlines() if b" 200 OK" in line]
    assert versions == [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]
    wait_until(lambda: threads.are_idle)


def test_a_socket_that_is_used_after_its_request_changes_nothing(
    threads: ThreadPool, loop: Loop, listener: socket.socket
) -> None:
    """Its thread may be the leader by then: with another one in its place, two would poll."""
    with server.dial(listener) as client:
        get(client)
        assert RESPONSE in client.recv(4096)
        deadline = time.monotonic() + PATIENCE
        while threads.leader is None or threads.leader.connection is not None:
            assert time.monotonic() < deadline
        leader, (connection,) = threads.leader, loop.connections
        threads._leave(leader, connection, threads.upgrades)
        assert threads.leader is leader
        assert leader in threads.threads
        get(client)
        assert RESPONSE in client.recv(4096)


def test_a_new_leader_follows_one_that_meets_an_unexpected_error(
    threads: ThreadPool,
    loop: Loop,
    listener: socket.socket,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise ValueError("of a library")

    with server.dial(listener) as broken, server.dial(listener) as client:
        get(client)
        thread_of(client)
        monkeypatch.setattr(threads._cycle, "take_turn", fail)
        get(broken)
        assert broken.recv(1) == b""
        get(client)
        thread_of(client)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
    assert not threads.is_broken
    wait_until(lambda: not loop.connections)
    assert threads.are_idle


def test_a_loop_that_fails_again_and_again_is_given_up(
    threads: ThreadPool, loop: Loop, worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: float) -> None:
        raise OSError("no epoll")

    monkeypatch.setattr(loop, "poll", fail)
    loop.wake()
    wait_until(lambda: threads.is_broken and worker.slot[Field.DRAINING])
    assert not worker.alive


def test_threads_end_when_nothing_is_left(
    threads: ThreadPool, loop: Loop, listener: socket.socket, worker: ThreadWorker, application: Application
) -> None:
    worker.mailbox = None
    with server.dial(listener) as slow:
        get(slow, "/wait")
        application.wait_for_request()
        worker.alive = False
        loop.wake()
        time.sleep(0.1)
        assert not threads.is_drained
        application.may_go_on.set()
        thread_of(slow)
        assert slow.recv(1) == b""
    wait_until(lambda: threads.is_drained)
    assert worker.slot[Field.OPEN] == 0


def test_a_drain_goes_on_while_all_threads_are_busy(
    threads: ThreadPool, dial: Dial, listener: socket.socket, worker: ThreadWorker, application: Application
) -> None:
    """Idle connections do not wait for the end of a request."""
    sibling = worker.board.take(1, 2)
    sibling[Field.PID] = 1
    _, idle = dial()
    with server.dial(listener) as first, server.dial(listener) as second:
        for client in (first, second):
            get(client, "/wait")
            application.wait_for_request()
            time.sleep(PROMOTE_AFTER)
            threads.promote_if_leader_is_busy()
        worker.alive = False
        StandIn(worker, threads).lead_if_all_are_busy()
        assert worker.slot[Field.CARRIED_OUT] == 1
        assert idle not in worker.loop.connections
        application.may_go_on.set()
        for client in (first, second):
            thread_of(client)
