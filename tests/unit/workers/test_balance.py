"""What a worker gives its siblings: idle connections, and those whose requests wait; through a real mailbox."""

from __future__ import annotations

import pytest

from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field, Slot
from flask_socketact.workers.balance import GIVEN_FOR_THREAD, INTERVAL, LONGEST_INTERVAL
from flask_socketact.workers.thread import ThreadWorker
from tests.unit.workers.conftest import Dial

LATER = 1000.0


@pytest.fixture(autouse=True)
def serving(worker: ThreadWorker) -> None:
    worker.slot[Field.ACCEPTING] = 1


def add_sibling(worker: ThreadWorker, connections: int, *, in_flight: int = 0) -> Slot:
    """Add another worker with two threads."""
    slot = worker.board.take(1, 2)
    slot[Field.ACCEPTING] = 1
    slot[Field.OPEN] = connections
    slot[Field.IN_FLIGHT] = in_flight
    return slot


@pytest.mark.parametrize(
    ("ours", "others", "given"),
    [
        (16, [0], 8),
        (16, [], 0),
        (9, [7], 1),
        (8, [7], 0),  # they cannot be more even
        (24, [20], 0),  # within a fifth
        (26, [20], 3),
        (12, [0, 0, 0], 9),
        (3, [0, 12], 0),  # the other one gives
        (1, [0], 0),
    ],
)
def test_connections_go_to_who_has_fewer(
    worker: ThreadWorker, dial: Dial, ours: int, others: list[int], given: int
) -> None:
    for connections in others:
        add_sibling(worker, connections)
    for _ in range(ours):
        dial()
    worker.loop.balance.look(LATER)
    assert worker.slot[Field.CARRIED_OUT] == given
    assert len(worker.loop.connections) == ours - given


def test_only_idle_connections_are_given(worker: ThreadWorker, dial: Dial) -> None:
    add_sibling(worker, 0)
    connections = [dial()[1] for _ in range(4)]
    connections[0].begin_turn()
    connections[1].enqueue()
    connections[2].add_unread(b"GET / HT")
    connections[2].end_turn()
    worker.loop.balance.look(LATER)
    assert worker.loop.connections == set(connections[:3])


def test_it_is_not_looked_at_in_each_turn(worker: ThreadWorker, dial: Dial) -> None:
    add_sibling(worker, 0)
    balance = worker.loop.balance
    assert balance.look(LATER) > 0.1
    for _ in range(4):
        dial()
    balance.has_new = True
    assert 0 < balance.look(LATER + 0.01) < 0.1  # soon, as there are new ones
    assert worker.slot[Field.CARRIED_OUT] == 0
    balance.look(LATER + 0.1)
    assert worker.slot[Field.CARRIED_OUT] == 2


@pytest.mark.parametrize("in_flight", [0, 1, 2])
def test_waiting_requests_go_to_free_threads(worker: ThreadWorker, dial: Dial, in_flight: int) -> None:
    """Several for each thread: most requests are short."""
    sibling = add_sibling(worker, 50, in_flight=in_flight)
    sibling[Field.WEBSOCKETS] = sibling[Field.STREAMS] = 1  # they have threads of their own
    sibling[Field.IN_FLIGHT] += 2
    connections = [dial()[1] for _ in range(10)]
    for connection in connections[:9]:
        worker.loop.make_ready(connection)
    worker.loop.balance.give_waiting()
    given = min(9, GIVEN_FOR_THREAD * (2 - in_flight))
    assert worker.loop.connections == set(connections[given:])
    assert list(worker.loop.ready) == connections[given:9]


def test_a_sibling_that_takes_nothing_is_asked_less_and_less(worker: ThreadWorker, dial: Dial, box: Mailbox) -> None:
    """It may hang in C code, or be stopped. The connections come back."""
    add_sibling(worker, 0)
    balance = worker.loop.balance
    for _ in range(8):
        dial()
    now, pauses = LATER, []
    for _ in range(7):
        pauses.append(balance.look(now))
        while sender := box.accept():
            sender.close()
        while len(worker.loop.connections) < 8:
            dial()
            worker.slot[Field.CARRIED_IN] += 1
        balance.has_new = True
        now += pauses[-1] + 0.01
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (INTERVAL, LONGEST_INTERVAL)
    balance.look(now)  # what is given now does not come back
    assert balance.look(now + LONGEST_INTERVAL) == INTERVAL


def test_connections_that_cannot_be_given_are_not_looked_at_again_and_again(worker: ThreadWorker, dial: Dial) -> None:
    add_sibling(worker, 0)
    for _ in range(8):
        dial()[1].begin_turn()
    balance = worker.loop.balance
    assert balance.look(LATER) == INTERVAL
    assert balance.look(LATER + 1) == 2 * INTERVAL
    assert balance.look(LATER + 3) == 4 * INTERVAL


@pytest.mark.parametrize("state", ["draining", "stopping", "superseded", "sibling", "mailbox"])
def test_nothing_is_given_to_no_one(worker: ThreadWorker, dial: Dial, state: str) -> None:
    sibling = add_sibling(worker, 0)
    for _ in range(4):
        worker.loop.make_ready(dial()[1])
    if state == "draining":
        worker.alive = False
    elif state == "stopping":
        worker.board.stopping = True
    elif state == "superseded":
        worker.board._memory[scoreboard._SUCCESSOR] = 1
    elif state == "sibling":
        sibling[Field.ACCEPTING] = 0
    else:
        worker.mailbox = None
    worker.loop.balance.give_waiting()
    worker.loop.balance.look(LATER)
    assert worker.slot[Field.CARRIED_OUT] == 0


def test_a_full_mailbox_leaves_the_connections_here(worker: ThreadWorker, box: Mailbox, dial: Dial) -> None:
    box.listener.listen(0)
    add_sibling(worker, 0)
    for _ in range(8):
        dial()
    worker.loop.balance.look(LATER)
    given = worker.slot[Field.CARRIED_OUT]
    assert 0 < given < 4
    assert len(worker.loop.connections) == 8 - given


def test_a_private_mailbox_is_for_siblings_that_serve(worker: ThreadWorker) -> None:
    """No other master reads it: in a restart nothing must stay in it."""
    worker.mailbox = box = Mailbox.create()
    with box.listener:
        assert not worker.carrier.has_successor()
        sibling = add_sibling(worker, 0)
        assert worker.carrier.has_successor()
        sibling.begin_drain()
        assert not worker.carrier.has_successor()
