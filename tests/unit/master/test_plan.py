"""Which workers are forked, drained and killed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flask_socketact.master.plan import Plan, State, WorkerHandle, overdue, plan

LOADING, SERVING, DRAINING = State


def worker(pid: int, state: State = SERVING, *, due: bool = False, retired: bool = False) -> WorkerHandle:
    return WorkerHandle(pid, age=pid, state=state, is_due=due, is_retired=retired)


def test_a_start_forks_all_workers() -> None:
    assert plan([], 3) == Plan(fork=3, drain=())


def test_enough_workers_need_nothing() -> None:
    assert plan([worker(1), worker(2, LOADING)], 2) == Plan(fork=0, drain=())


def test_a_draining_worker_is_replaced_before_it_exits() -> None:
    assert plan([worker(1, DRAINING), worker(2)], 2) == Plan(fork=1, drain=())


def test_a_worker_that_a_reload_has_retired_was_replaced_before() -> None:
    retired = [worker(pid, DRAINING, retired=True) for pid in (1, 2)]
    assert plan([*retired, worker(3), worker(4)], 2) == Plan(fork=0, drain=())


def test_no_worker_is_forked_during_the_pause_after_a_failed_fork() -> None:
    assert plan([worker(1)], 2, may_fork=False) == Plan(fork=0, drain=())


def test_a_due_worker_gets_a_substitute_first() -> None:
    assert plan([worker(1, due=True), worker(2)], 2) == Plan(fork=1, drain=())


def test_a_due_worker_serves_while_its_substitute_loads() -> None:
    assert plan([worker(1, due=True), worker(2), worker(3, LOADING)], 2) == Plan(fork=0, drain=())


def test_a_due_worker_drains_when_its_substitute_serves() -> None:
    assert plan([worker(1, due=True), worker(2), worker(3)], 2) == Plan(fork=0, drain=(1,))


def test_of_two_due_workers_the_older_drains_first() -> None:
    assert plan([worker(2, due=True), worker(1, due=True), worker(3)], 2) == Plan(fork=1, drain=(1,))


def test_recycling_at_most_doubles_the_workers() -> None:
    draining = [worker(pid, DRAINING) for pid in (1, 2)]
    assert plan([*draining, worker(3, due=True), worker(4, due=True)], 2) == Plan(fork=0, drain=())
    assert plan([*draining[1:], worker(3, due=True), worker(4, due=True)], 2) == Plan(fork=1, drain=())


def test_of_too_many_workers_the_oldest_drains() -> None:
    assert plan([worker(2), worker(1), worker(3)], 2) == Plan(fork=0, drain=(1,))


def test_of_too_many_workers_one_that_loads_drains_before_one_that_serves() -> None:
    assert plan([worker(1), worker(2, LOADING)], 1) == Plan(fork=0, drain=(2,))


def test_a_worker_that_drains_already_is_not_told_again() -> None:
    """SIGTTOU twice: two of three workers drain, each once."""
    assert plan([worker(1, DRAINING), worker(2), worker(3)], 1) == Plan(fork=0, drain=(2,))


def test_overdue_are_draining_workers_after_their_time() -> None:
    late = WorkerHandle(1, 1, DRAINING, exit_by=10.0)
    in_time = WorkerHandle(2, 2, DRAINING, exit_by=12.0)
    assert overdue([late, in_time, worker(3)], now=11.0) == [1]


workers = st.lists(
    st.builds(
        WorkerHandle,
        pid=st.integers(1, 1 << 20),
        age=st.integers(1, 1 << 20),
        state=st.sampled_from(State),
        is_due=st.booleans(),
        is_retired=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda worker: worker.pid,
)


@given(workers, st.integers(1, 6), st.booleans())
def test_a_plan_never_leaves_fewer_serving_workers_than_wanted_because_of_it(
    present: list[WorkerHandle], wanted: int, may_fork: bool
) -> None:
    todo = plan(present, wanted, may_fork=may_fork)
    serving = {worker.pid for worker in present if worker.state is SERVING}
    active = {worker.pid for worker in present if worker.state is not DRAINING}
    assert set(todo.drain) <= active
    assert len(todo.drain) == len(set(todo.drain))
    assert len(serving.difference(todo.drain)) >= min(len(serving), wanted)
    assert todo.fork == 0 or len(active) < 2 * wanted
