"""Connections of a worker in its epoll: real sockets, polled by the test itself."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from flask_socketact.http.states import State
from flask_socketact.linux import descriptors
from flask_socketact.shared.slot import Field
from flask_socketact.workers import closing, connection_loop
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.thread import ThreadWorker
from tests.support import server
from tests.unit.workers.conftest import Dial

PATIENCE = 10.0


def sweep(loop: Loop) -> None:
    """Check now for connections whose deadline has passed."""
    loop._next_sweep = 0.0
    loop.poll(0)


def is_open(client: socket.socket) -> bool:
    """Return whether the server keeps a connection open on which it has sent nothing."""
    return not select.select([client], [], [], 0)[0] or client.recv(1) != b""


def test_a_connection_that_sends_is_ready_once(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    _, silent = dial()
    loop.poll(0)
    assert loop.next_ready() is None
    client.sendall(b"GET")
    loop.poll(PATIENCE)
    loop.poll(PATIENCE)  # returns at once, as something is ready
    assert connection.state is State.QUEUED
    assert silent.state is State.IDLE
    assert loop.next_ready() is connection
    assert loop.next_ready() is None


def test_another_thread_can_wake_the_leader(loop: Loop) -> None:
    began = time.monotonic()
    timer = threading.Timer(0.05, loop.wake)
    timer.start()
    loop.poll(PATIENCE)
    timer.join()
    assert time.monotonic() - began < connection_loop.SWEEP_INTERVAL
    began = time.monotonic()
    loop.poll(0.05)  # it has been read once
    assert time.monotonic() - began >= 0.05


def test_what_has_been_read_of_the_next_request_is_ready_without_an_event(loop: Loop, dial: Dial) -> None:
    _, connection = dial()
    connection.begin_turn()
    connection.add_unread(b"GET / HTTP/1.1\r\n\r\n")
    loop.rejoin(connection)
    assert loop.next_ready() is connection


def test_an_idle_connection_is_closed_after_its_deadline(loop: Loop, dial: Dial, worker: ThreadWorker) -> None:
    client, connection = dial()
    other, _ = dial()
    assert worker.slot[Field.OPEN] == 2
    sweep(loop)
    assert worker.slot[Field.IDLE] == 2
    assert is_open(client)
    connection.deadline = time.monotonic() - 0.1
    sweep(loop)
    assert (is_open(client), is_open(other)) == (False, True)
    assert worker.slot[Field.OPEN] == 1


def test_a_request_that_has_come_by_the_deadline_is_served(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    connection.deadline = 0.0
    sweep(loop)
    assert loop.next_ready() is connection
    assert is_open(client)


def test_a_connection_in_a_request_has_no_deadline(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    connection.begin_turn()
    connection.deadline = 0.0
    sweep(loop)
    assert is_open(client)


def test_the_client_has_less_time_to_begin_a_request_than_to_end_it(loop: Loop, dial: Dial) -> None:
    _, connection = dial()
    loop.set_deadline(connection, begun=False)
    to_begin = connection.deadline - time.monotonic()
    assert to_begin == pytest.approx(loop.cfg.keepalive, abs=1)
    loop.set_deadline(connection, begun=True)
    assert connection.deadline - time.monotonic() == pytest.approx(loop._header_timeout, abs=1)


def test_a_close_sends_fin_and_waits_for_that_of_the_client(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    connection.begin_turn()
    loop.close_gracefully(connection)
    assert client.recv(1) == b""
    client.sendall(b"late")  # is discarded, and does not reset the connection
    loop.poll(PATIENCE)
    assert connection in loop.connections
    client.close()
    loop.poll(PATIENCE)
    assert connection not in loop.connections


def test_a_client_that_does_not_close_is_cut_off(loop: Loop, dial: Dial) -> None:
    _, connection = dial()
    connection.begin_turn()
    loop.close_gracefully(connection)
    assert connection.deadline - time.monotonic() <= closing.CLOSE_TIMEOUT
    connection.deadline = 0.0
    sweep(loop)
    assert connection not in loop.connections


def test_a_client_that_has_closed_is_closed_at_once(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    client.close()
    loop.poll(PATIENCE)
    assert loop.next_ready() is connection
    loop.close_gracefully(connection)
    assert connection not in loop.connections


def test_a_closed_connection_is_not_ready_any_more(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    client.sendall(b"GET")
    loop.poll(PATIENCE)
    loop.close(connection)
    assert loop.next_ready() is None


def test_a_connection_that_another_thread_serves_makes_no_event(loop: Loop, dial: Dial) -> None:
    client, connection = dial()
    connection.begin_turn()
    loop.unregister(connection)
    loop.unregister(connection)  # does no harm
    client.sendall(b"more")
    loop.poll(0)
    assert loop.next_ready() is None
    loop.rejoin(connection)
    loop.poll(PATIENCE)
    assert loop.next_ready() is connection


def test_a_connection_may_be_closed_before_its_registration_returns(loop: Loop, dial: Dial) -> None:
    """The leader gets its event while another thread registers it. A copy, as in a forked process, would keep it in the
    epoll; its events would be taken for those of the next connection with the same descriptor."""
    client, connection = dial()
    connection.begin_turn()
    loop.unregister(connection)
    epoll = loop.epoll

    class Prompt:
        """The leader handles the event before `register` returns."""

        poll, unregister = epoll.poll, epoll.unregister

        def register(self, fd: int, events: int) -> None:
            epoll.register(fd, events)
            client.close()
            loop.poll(PATIENCE)

    copy = os.dup(connection.fd)
    try:
        loop.epoll = Prompt()  # type: ignore[assignment]
        loop.close_gracefully(connection)
        loop.epoll = epoll
        assert connection not in loop.connections
        assert epoll.poll(0) == []
    finally:
        os.close(copy)


def test_an_event_of_an_earlier_connection_is_ignored(loop: Loop, dial: Dial) -> None:
    """Else two threads would serve the next one with its descriptor."""
    low = os.dup(0)
    client, earlier = dial()
    copy = os.dup(earlier.fd)
    try:
        earlier.registered_events = 0  # closed without a word to the kernel
        loop.close(earlier)
        os.close(low)  # for the next client
        _, connection = dial()
        assert connection.fd == earlier.fd
        connection.begin_turn()
        loop.unregister(connection)
        client.close()
        loop.poll(PATIENCE)
        assert loop.next_ready() is None
        assert connection.state is State.IN_REQUEST
    finally:
        os.close(copy)


def test_an_error_closes_the_connection_that_it_came_from_and_no_other(
    loop: Loop, dial: Dial, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, broken = dial()
    other, connection = dial()
    make_ready = loop.make_ready

    def fail(each: object) -> None:
        if each is broken:
            raise ValueError("broken")
        make_ready(connection)

    monkeypatch.setattr(loop, "make_ready", fail)
    for end in (client, other):
        end.sendall(b"GET")
    deadline = time.monotonic() + PATIENCE
    while not (loop.ready and broken not in loop.connections):
        assert time.monotonic() < deadline
        loop.poll(0.1)
    assert loop.next_ready() is connection
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


def test_the_connections_that_are_idle_for_longest_are_closed_for_want_of_descriptors(loop: Loop, dial: Dial) -> None:
    now = time.monotonic()
    dialed = [dial() for _ in range(descriptors.CLOSE_IDLE_BATCH + 4)]
    for age, (_, connection) in enumerate(dialed):
        connection.free_since = now - descriptors.CLOSE_IDLE_AFTER - 100 + age
    (busy_client, busy), (sending_client, _) = dialed[:2]
    busy.begin_turn()
    sending_client.sendall(b"GET")
    (recent_client, recent) = dialed[2]
    recent.free_since = now - descriptors.CLOSE_IDLE_AFTER + 1
    loop.close_oldest_idle(now)
    assert is_open(busy_client)
    assert is_open(sending_client)
    assert is_open(recent_client)
    closed = [is_open(client) for client, _ in dialed[3:]].count(False)
    assert closed == descriptors.CLOSE_IDLE_BATCH - 1  # one of the batch has sent something
    assert is_open(dialed[-1][0])


def test_a_drain_shortens_the_deadlines_of_idle_connections(loop: Loop, dial: Dial) -> None:
    _, idle = dial()
    _, busy = dial()
    busy.begin_turn()
    before, soon = busy.deadline, time.monotonic() + 1
    loop.close_idle_by(soon)
    assert (idle.deadline, busy.deadline) == (soon, before)
    loop.close_idle_by(soon + 60)
    assert idle.deadline == soon


def test_an_ipv4_client_of_an_ipv6_listener_has_its_ipv4_address(loop: Loop) -> None:
    with socket.socket(socket.AF_INET6) as listener, socket.socket() as client:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        client.connect(("127.0.0.1", listener.getsockname()[1]))
        end, address = listener.accept()
        assert address[0] == "::ffff:127.0.0.1"
        assert loop.adopt(end, address, listener.getsockname(), "http").client[0] == "127.0.0.1"


def test_a_new_connection_comes_by_the_listener(loop: Loop, listener: socket.socket, worker: ThreadWorker) -> None:
    with server.dial(listener) as client:
        client.sendall(b"GET")
        deadline = time.monotonic() + PATIENCE
        while not loop.ready:
            assert time.monotonic() < deadline
            loop.poll(0.1)
        (connection,) = loop.connections
        assert connection.client == client.getsockname()
    assert (worker.slot[Field.ACCEPTED], worker.slot[Field.OPEN]) == (1, 1)
