"""Which connections a worker hands over, and when; through a real mailbox."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from flask_socketact.handover import mailbox
from flask_socketact.handover.mailbox import Mailbox, Origin
from flask_socketact.http.connection import Connection
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from flask_socketact.workers import drain
from flask_socketact.workers.carrier import Carrier
from flask_socketact.workers.thread import ThreadWorker
from tests.support.control_groups import SERVICE, SLICE, ControlGroups
from tests.unit.workers.conftest import Dial


class ConnectionOwner:
    """Records the calls of the carrier."""

    def __init__(self) -> None:
        self.reads: list[bool] = []
        self.closed: list[Any] = []

    def read_mailbox(self, box: Mailbox) -> None:  # noqa: ARG002 (there is one)
        self.reads.append(True)

    def leave_mailbox(self, box: Mailbox) -> None:  # noqa: ARG002
        self.reads.append(False)

    def close_copy(self, connection: Any) -> None:
        self.closed.append(connection)
        connection.sock.close()


@pytest.fixture
def carrier(worker: ThreadWorker) -> Carrier:
    return worker.carrier


@pytest.fixture
def sibling(worker: ThreadWorker) -> Slot:
    """Another worker of the same master, which serves."""
    slot = worker.board.take(1, 2)
    slot[Field.PID] = os.getppid()
    return slot


@pytest.fixture
def relayed(worker: ThreadWorker, groups: ControlGroups) -> None:
    """Pretend that the relay has moved the worker to a scope."""
    worker.cgroup = SERVICE
    groups.add_process(os.getpid(), f"{SLICE}/app-drain-{os.getppid()}.scope")


def successor(worker: ThreadWorker, pid: int = os.getpid()) -> None:
    """Pretend that the next master has superseded this generation."""
    worker.board._memory[scoreboard._SUCCESSOR] = pid
    assert worker.board.is_superseded


def received(box: Mailbox) -> list[tuple[Origin, int]]:
    """Return the origins in the mailbox, each with the number of its connections."""
    found = []
    while sender := box.accept():
        with sender:
            while message := mailbox.receive(sender):
                origin, connections, refused = message
                assert not refused
                found.append((origin, len(connections)))
                for connection in connections:
                    connection.close()
    return found


def test_a_worker_of_a_service_that_serves_has_a_successor(carrier: Carrier) -> None:
    """The worker that replaces it may not have been forked yet."""
    assert carrier.has_successor()


def test_when_the_service_stops_there_is_no_successor(carrier: Carrier, worker: ThreadWorker) -> None:
    worker.board.stopping = True
    assert not carrier.has_successor()


def test_workers_of_another_class_are_no_successors(carrier: Carrier, worker: ThreadWorker) -> None:
    worker.board.is_deaf = True
    assert not carrier.has_successor()


@pytest.mark.usefixtures("relayed")
def test_a_relayed_worker_has_a_successor_while_a_sibling_serves(
    carrier: Carrier, worker: ThreadWorker, sibling: Slot
) -> None:
    worker.slot.begin_drain()
    assert carrier.has_successor()
    sibling.begin_drain()
    assert not carrier.has_successor()
    worker.relayed.may_hand_over = True
    assert carrier.has_successor()


def test_a_worker_that_was_told_to_drain_just_before_it_was_relayed_has_a_successor(
    carrier: Carrier, worker: ThreadWorker, groups: ControlGroups, sibling: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master was killed in a restart: systemd signals all workers, and the relay moves them."""
    monkeypatch.setattr(drain, "_start_thread", lambda *_: None)  # it would end this process
    worker.cgroup, worker.booted = SERVICE, True
    worker.handle_exit(signal.SIGTERM, None)
    sibling.begin_drain()
    groups.add_process(os.getpid(), f"{SLICE}/app-drain-{os.getppid()}.scope")
    assert worker.relayed.is_moved()
    assert carrier.has_successor()


def test_a_worker_is_superseded_when_the_next_generation_accepts(carrier: Carrier, worker: ThreadWorker) -> None:
    assert not carrier.is_superseded()
    successor(worker)
    assert carrier.is_superseded()


def test_a_worker_that_drains_is_superseded_by_its_siblings(carrier: Carrier, worker: ThreadWorker) -> None:
    worker.slot.begin_drain()
    assert carrier.is_superseded()
    worker.board.stopping = True
    assert not carrier.is_superseded()


@pytest.mark.usefixtures("relayed", "sibling")
def test_a_relayed_worker_accepts_until_the_next_generation_does(carrier: Carrier, worker: ThreadWorker) -> None:
    worker.slot.begin_drain()
    assert not carrier.is_superseded()
    successor(worker)
    assert carrier.is_superseded()


def test_a_new_connection_is_passed_on_by_a_superseded_worker(
    carrier: Carrier, worker: ThreadWorker, box: Mailbox
) -> None:
    client, end = socket.socketpair()
    with client:
        assert not carrier.pass_on(end, "http")
        successor(worker)
        assert carrier.pass_on(end, "http")
        assert end.fileno() == -1
        assert received(box) == [(Origin("http", served=False), 1)]


def test_a_new_connection_that_the_mailbox_does_not_take_stays(
    carrier: Carrier, worker: ThreadWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    successor(worker)
    (tmp_path / "mailbox").unlink()
    client, end = socket.socketpair()
    with client, end:
        assert not carrier.pass_on(end, "http")
        assert end.fileno() >= 0
        assert str(tmp_path / "mailbox") in caplog.text


def test_what_comes_is_served_here(carrier: Carrier, caplog: pytest.LogCaptureFixture) -> None:
    client, end = socket.socketpair()
    with client, end:
        ((connection, _),) = carrier.receive(Origin("http", served=True), [end], ["no socket"])
        assert connection is end
        assert "no socket" in caplog.text


def test_a_connection_that_has_closed_on_the_way_is_left_out(carrier: Carrier) -> None:
    with socket.socket() as unconnected:
        assert list(carrier.receive(Origin("http", served=True), [unconnected], [])) == []
        assert unconnected.fileno() == -1


def test_a_superseded_worker_passes_on_what_is_new_and_serves_the_rest(
    carrier: Carrier, worker: ThreadWorker, box: Mailbox
) -> None:
    """If it sent all connections, it would receive them again and again."""
    successor(worker)
    pairs = [socket.socketpair() for _ in range(2)]
    (_, first), (_, second) = pairs
    assert list(carrier.receive(Origin("http", served=False), [first], [])) == []
    assert [each for each, _ in carrier.receive(Origin("http", served=True), [second], [])] == [second]
    assert received(box) == [(Origin("http", served=False), 1)]
    for pair in pairs:
        for end in pair:
            end.close()


@pytest.mark.usefixtures("sibling", "loop")
def test_idle_connections_are_carried_and_others_stay(
    carrier: Carrier, worker: ThreadWorker, dial: Dial, box: Mailbox
) -> None:
    holder = ConnectionOwner()
    carrier.owner = holder
    carrier.begin()
    assert (carrier.is_carrying, holder.reads) == (True, [False])
    (_, idle), (_, busy), (_, unread), (_, too_much), (_, proxied) = (dial() for _ in range(5))
    busy.begin_turn()
    idle.served = True
    unread.add_unread(b"GET / HTTP/1.1\r\n")
    too_much.add_unread(b"x" * (mailbox.MAX_UNREAD + 1))
    proxied.proxy = {"b": 2, "a": "1"}
    carrier.carry([idle, busy, unread, too_much, proxied])
    assert holder.closed == [idle, unread, proxied]
    assert worker.slot[Field.CARRIED_OUT] == 3
    assert received(box) == [
        (Origin(None, served=True), 1),
        (Origin(None, served=False, unread=b"GET / HTTP/1.1\r\n"), 1),
        (Origin(None, served=False, proxy=(("a", "1"), ("b", 2))), 1),
    ]


@pytest.mark.usefixtures("loop")
def test_the_mailbox_is_read_on_when_nothing_can_be_carried(carrier: Carrier, worker: ThreadWorker) -> None:
    """No other worker may be left to read what others have sent."""
    worker.board.stopping = True
    holder = ConnectionOwner()
    carrier.owner = holder
    carrier.begin()
    assert (carrier.has_begun, carrier.is_carrying, holder.reads) == (True, False, [])


def carry_to_nobody(carrier: Carrier, dial: Dial) -> tuple[ConnectionOwner, Connection]:
    _, idle = dial()
    holder = ConnectionOwner()
    carrier.owner = holder
    carrier.begin()
    return holder, idle


@pytest.mark.usefixtures("loop", "sibling")
def test_connections_stay_when_the_mailbox_takes_nothing(
    carrier: Carrier, dial: Dial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder, idle = carry_to_nobody(carrier, dial)
    (tmp_path / "mailbox").unlink()
    carrier.carry([idle])
    assert (holder.closed, carrier.is_carrying, carrier.can_carry()) == ([], False, False)
    assert str(tmp_path / "mailbox") in caplog.text
    assert holder.reads == [False]


@pytest.mark.usefixtures("loop", "sibling")
def test_a_service_that_stops_during_a_drain_reads_what_it_has_sent(
    carrier: Carrier, worker: ThreadWorker, dial: Dial
) -> None:
    holder, idle = carry_to_nobody(carrier, dial)
    worker.board.stopping = True
    carrier.carry([idle])
    assert (holder.closed, carrier.is_carrying) == ([], False)
    assert holder.reads == [False, True]


def test_without_a_mailbox_nothing_is_carried(carrier: Carrier, worker: ThreadWorker) -> None:
    worker.mailbox = None
    carrier.begin()
    assert not carrier.is_carrying
    assert not carrier.has_mail()
    client, end = socket.socketpair()
    with client, end:
        successor(worker)
        assert not carrier.pass_on(end, "http")


def test_mail_is_what_no_worker_has_accepted(carrier: Carrier, box: Mailbox) -> None:
    assert not carrier.has_mail()
    client, end = socket.socketpair()
    with client, end:
        list(box.send([(Origin("http", served=True), end.fileno())], 1))
    assert carrier.has_mail()
    received(box)
    assert not carrier.has_mail()
