"""What the master tells systemd in each turn of its loop, and in a stop."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.errors import HaltServer

from flask_socketact.handover.mailbox import Mailbox, Origin
from flask_socketact.handover.old_generations import OldGenerations, RelayedWorker
from flask_socketact.master import arbiter
from flask_socketact.master.failures import Failure
from flask_socketact.master.service_state import Phase
from flask_socketact.shared import scoreboard
from flask_socketact.shared.slot import Field
from tests.support.control_groups import SERVICE, SLICE, ControlGroups
from tests.unit.master.conftest import Master

Messages = Callable[[], list[str]]
OLD_MASTER = 2**22 + 1  # no pid is so great


@pytest.fixture
def starting(master: Master, messages: Messages) -> Master:
    """The master before a worker has accepted."""
    messages()
    master.state = type(master.state)()
    master.booted = False
    master.reports.accepting.clear()
    return master


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    """A mailbox with one connection in it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mailbox"))
        listener.listen()
        box = Mailbox(listener)
        client, end = socket.socketpair()
        with client, end:
            list(box.send([(Origin("http", served=True), end.fileno())], 1))
        yield box


def report(master: Master, *pids: int) -> None:
    """Let workers report that they accept."""
    for pid in pids:
        master.reports._write.send(str(pid).encode())


def test_ready_waits_for_the_last_worker(starting: Master, messages: Messages) -> None:
    first, second = starting.WORKERS
    report(starting, first)
    starting.tick()
    assert messages() == []
    report(starting, second)
    starting.tick()
    assert messages() == ["READY=1", "BARRIER=1"]
    assert starting.board.ready == 1
    starting.tick()
    assert messages() == []


@pytest.mark.parametrize("hands_over", [True, False])
def test_old_workers_are_superseded_when_ours_accept(
    starting: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hands_over: bool
) -> None:
    """Workers of another class than ours do not read the mailbox."""
    groups = ControlGroups(tmp_path, monkeypatch)
    groups.fill(f"{SLICE}/app-drain-{OLD_MASTER}-5.scope", [7])
    board = scoreboard.create(tmp_path / "boards", OLD_MASTER)
    starting.old = OldGenerations(SERVICE, tmp_path / "boards", starting.log, on_exit=lambda _: None)
    starting.worker_class = SimpleNamespace(hands_over=hands_over)
    first, second = starting.WORKERS
    report(starting, first)
    starting.tick()
    assert not board.is_superseded
    report(starting, second)
    starting.tick()
    assert board.is_superseded is hands_over


def test_ready_is_sent_again_until_systemd_can_be_reached(
    starting: Master, messages: Messages, systemd: socket.socket
) -> None:
    path = Path(systemd.getsockname())
    path.rename(f"{path}.away")
    report(starting, *starting.WORKERS)
    starting.tick()
    assert starting.state.phase is Phase.STARTING
    path.with_name("notify.away").rename(path)
    starting.tick()
    assert messages()[0] == "READY=1"


def test_the_start_has_ended_when_systemd_has_acted(starting: Master, systemd: socket.socket) -> None:
    """Until then, a restart would not relay the workers."""
    report(starting, *starting.WORKERS)
    starting.tick()
    assert not starting.state.has_started
    systemd.recv(4096)
    _, (barrier,), _, _ = socket.recv_fds(systemd, 4096, 1)
    os.close(barrier)
    starting.tick()
    assert starting.state.has_started


def test_more_time_is_asked_for_while_the_application_loads_slowly(starting: Master, messages: Messages) -> None:
    starting.tick()
    assert messages() == []
    starting.reloads.loading_since = time.monotonic() - arbiter.LONG - 1
    starting.tick()
    assert messages() == ["EXTEND_TIMEOUT_USEC=10000000"]


def test_the_status_follows_the_workers(master: Master, messages: Messages) -> None:
    messages()
    master.tick()
    assert messages() == []
    next(iter(master.WORKERS.values())).slot[Field.IN_FLIGHT] = 5
    master.tick()
    (status,) = messages()
    assert "5 requests in flight" in status


def test_a_shortage_is_over_when_enough_workers_serve(master: Master) -> None:
    master.shortage = Failure.known("no worker can be forked")
    pid = next(iter(master.WORKERS))
    worker = master.lose(pid)
    master.tick()
    assert master.shortage is not None
    master.WORKERS[pid] = worker
    report(master, pid)
    master.tick()
    assert master.shortage is None


def test_a_reload_that_was_asked_for_begins_in_the_next_turn(master: Master, messages: Messages) -> None:
    messages()
    master.handle_hup()
    assert len(master.WORKERS) == 2
    master.tick()
    assert len(master.WORKERS) == 4
    assert messages() == ["RELOADING=1"]


def test_what_is_in_the_mailbox_is_closed_if_no_worker_reads_it(
    master: Master, box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The workers of this master are gunicorn's."""
    assert not master.hands_over
    master.mailbox = box
    master.tick()
    assert not box.has_mail()
    assert master.board.is_deaf
    assert "Mailbox" in caplog.text


def test_the_idle_exit_is_a_stop(master: Master, messages: Messages) -> None:
    messages()
    with pytest.raises(StopIteration):
        master.exit_idle(5.0)
    assert messages() == ["STOPPING=1"]
    assert master.state.phase is Phase.STOPPING


def test_stopping_is_sent_once_and_is_the_last_word(master: Master, messages: Messages) -> None:
    messages()
    for text in ("first", "second"):
        master._announce_stop(text)
    assert messages() == ["STOPPING=1"]
    assert master.state.due(is_reloading=False) is None


def test_a_second_master_is_refused_under_systemd(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    master.systemd = True
    master.handle_usr2()
    assert master.reexec_pid == 0
    assert "SIGUSR2 refused" in caplog.text


def test_a_stop_reports_requests_in_flight_until_the_drain_time_is_over(master: Master, messages: Messages) -> None:
    messages()
    slot = next(iter(master.WORKERS.values())).slot
    master._drain_end = time.monotonic() + 30
    master._report_drain()
    assert messages() == []  # nothing is in flight
    slot[Field.IN_FLIGHT] = 2
    master._report_drain()
    asked, status = messages()
    assert asked == "EXTEND_TIMEOUT_USEC=10000000"
    assert "2 requests in flight" in status
    master._drain_end = time.monotonic()
    master.manager._ask_at = 0.0
    master._report_drain()
    assert messages() == []


def test_a_worker_that_cannot_boot_ends_a_start_and_no_stop(master: Master, starting: Master) -> None:
    halt = HaltServer("Worker failed to boot.", 3)
    with pytest.raises(HaltServer):
        starting.handle_boot_failure(halt)
    master.state.note(Phase.STOPPING)
    master.handle_boot_failure(halt)


def test_workers_that_do_not_exit_are_killed_at_the_end_of_a_stop(
    master: Master, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arbiter, "OVERDUE", 0.01)
    monkeypatch.setattr(master, "reap_workers", lambda: None)
    pids = list(master.WORKERS)
    master.kill_workers(signal.SIGKILL)
    assert master.sent == [(pid, signal.SIGKILL) for pid in pids]
    assert str(pids) in caplog.text


def test_an_error_in_the_hook_of_the_user_stops_nothing(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 (gunicorn's hook)
        raise ValueError("of the user")

    master.cfg.set("child_exit", child_exit)
    master._call_child_exit(RelayedWorker(4711, age=1))
    assert "4711" in caplog.text
