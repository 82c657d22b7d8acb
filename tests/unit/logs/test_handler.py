"""A journal that does not read: records are dropped, and log calls do not block."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from flask_socketact.logs import handler
from flask_socketact.logs.handler import Handler, JournalQueue


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of the journal's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        end.setblocking(False)
        monkeypatch.setattr(handler, "SOCKET", str(tmp_path / "socket"))
        yield end


def fill(journald: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", journald.getsockname())


def empty(journald: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            journald.recv(10)


def record() -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord("shop", logging.INFO, "/shop.py", 7, "sold", (), None)


@pytest.fixture
def queue() -> Iterator[Callable[[], JournalQueue]]:
    """Open queues, which otherwise live as long as the process, and close them after the test."""
    with ExitStack() as stack:

        def make() -> JournalQueue:
            queue = JournalQueue()
            stack.enter_context(queue._socket)
            return queue

        yield make


@pytest.fixture
def journal_handler(journald: socket.socket) -> Iterator[Handler]:  # noqa: ARG001 (its queue)
    handler = Handler()
    with handler.queue._socket:
        yield handler


def test_a_queue_has_room_until_it_is_full(journald: socket.socket, queue: Callable[[], JournalQueue]) -> None:
    each = queue()
    assert each.exists
    assert each.has_room(0.0)
    fill(journald)
    began = time.monotonic()
    assert not each.has_room(0.1)
    assert time.monotonic() - began >= 0.1
    empty(journald)
    assert each.has_room(0.0)


def test_without_a_journal_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: Callable[[], JournalQueue]
) -> None:
    """libsystemd then discards the entries."""
    monkeypatch.setattr(handler, "SOCKET", str(tmp_path / "none"))
    each = queue()
    assert not each.exists
    assert each.has_room(0.0)


def test_the_first_record_waits_and_the_next_ones_are_dropped_at_once(
    journald: socket.socket, journal_handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "JOURNAL_TIMEOUT", 0.2)
    fill(journald)
    times = []
    for _ in range(3):
        began = time.monotonic()
        journal_handler.emit(record())
        times.append(time.monotonic() - began)
    assert times[0] >= 0.2
    assert max(times[1:]) < 0.2
    assert journal_handler._dropped == 3
    empty(journald)
    journal_handler.emit(record())
    assert journal_handler._dropped == 0  # they are reported


def test_a_record_that_cannot_be_formatted_does_not_raise(
    journal_handler: Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = record()
    broken.args = ("too", "many")
    journal_handler.emit(broken)
    assert "not all arguments converted" in capsys.readouterr().err
