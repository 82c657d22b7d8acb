"""The states of a connection, and when it can be handed over."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from gunicorn.config import Config

from flask_socketact.http import upload
from flask_socketact.http.connection import Connection
from flask_socketact.http.memory import Memory
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.states import NextRequest, State

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, client = socket.socketpair()
    with ours, client:
        connection = Connection(Settings(Config()), ours, ("127.0.0.1", 1), ("127.0.0.1", 2), "http")
        yield connection, client


def test_states_of_a_request(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    assert (connection.state, connection.is_movable) == (State.IDLE, True)
    client.sendall(REQUEST)
    connection.enqueue()
    assert (connection.state, connection.is_movable) == (State.QUEUED, True)  # nothing has been read
    connection.begin_turn()
    assert (connection.state, connection.is_movable) == (State.IN_REQUEST, False)
    assert connection.read_request() is not None
    connection.end_turn()
    assert (connection.state, connection.is_movable) == (State.IDLE, True)


def test_incomplete_headers_are_not_movable(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.sendall(REQUEST[:10])
    connection.begin_turn()
    assert connection.read_request() is None
    connection.end_turn()
    assert (connection.state, connection.next_request) == (State.READING_HEADERS, NextRequest.INCOMPLETE)
    assert connection.unread == REQUEST[:10]
    assert not connection.is_movable
    client.sendall(REQUEST[10:])
    connection.begin_turn()
    assert connection.read_request() is not None
    assert connection.next_request is NextRequest.NONE


@pytest.fixture
def memory(pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch) -> Memory:
    """The memory for bodies that wait, 5 bytes. 4 of them are taken, for the beginning of a body of 9."""
    memory = Memory(5)
    monkeypatch.setattr(upload, "_memory", memory)
    connection, client = pair
    connection.body_limit = 1000
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    assert connection.read_request() is None
    client.sendall(b"abcd")
    assert connection.read_request() is None
    return memory


def test_bodies_that_wait_share_the_memory(pair: tuple[Connection, socket.socket], memory: Memory) -> None:
    """When it is used up, the application gets the request at once, and waits for the rest of the body."""
    connection, client = pair
    assert not memory.take(5)
    client.sendall(b"ef")
    request = connection.read_request()
    assert request is not None
    assert memory.take(5)  # given back
    client.sendall(b"ghi")
    assert request.body.read() == b"abcdefghi"


def test_a_body_that_waits_gives_its_memory_back_when_the_connection_closes(
    pair: tuple[Connection, socket.socket], memory: Memory
) -> None:
    connection, _ = pair
    for _ in range(2):
        connection.release()
    assert memory.take(5)


@pytest.mark.parametrize("unread", [b"", b"\r", b"\r\n"])
def test_empty_line_is_no_request(pair: tuple[Connection, socket.socket], unread: bytes) -> None:
    """RFC 9112, section 2.2."""
    connection, _ = pair
    connection.add_unread(unread)
    connection.end_turn()
    assert (connection.state, connection.is_movable) == (State.IDLE, True)


def test_bytes_that_another_worker_has_read(pair: tuple[Connection, socket.socket]) -> None:
    """They can be handed over again, as the parser has not seen them."""
    connection, _ = pair
    connection.add_unread(REQUEST)
    connection.enqueue()
    assert (connection.next_request, connection.is_movable) == (NextRequest.UNPARSED, True)
    connection.begin_turn()
    assert connection.read_request() is not None


def test_closing_waits_for_the_client(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    assert connection.begin_close()
    assert (connection.state, connection.is_movable) == (State.CLOSING, False)
    client.sendall(b"late bytes")
    assert not connection.is_closed_by_client()
    client.close()
    assert connection.is_closed_by_client()
