"""What ``status`` prints of workers, restarts and listeners."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flask_socketact.cli.status import output
from flask_socketact.cli.status.snapshot import Listener, Overview, Restart, Worker

MASTER = 100
WORKER = Worker(
    pid=101,
    master=MASTER,
    generation=2,
    state="serving",
    threads=4,
    requests=12345,
    errors=7,
    rate=8.25,
    in_flight=1,
    connections=3,
    idle=2,
    websockets=0,
    streams=0,
    held=0,
    oldest=0.0,
    memory=52_000_000,
    draining_for=0.0,
    drain_time=30.0,
)
SERVICE = Overview(
    service="app.service",
    state="active",
    status="Serving with 1 of 1 workers",
    main_pid=MASTER,
    listeners=(),
    generation=2,
    workers=(),
    restart=None,
    overlaps=True,
    remark="",
    failure="",
    warnings=(),
)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no line be broken."""
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str], seen: Overview) -> list[str]:
    """Return the lines that are printed, each with single spaces."""
    output.show(seen)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def row(capsys: pytest.CaptureFixture[str], worker: Worker) -> str:
    """Return the line of a worker."""
    (found,) = [line for line in shown(capsys, replace(SERVICE, workers=(worker,))) if line.startswith("101 ")]
    return found


def test_a_worker_is_a_row_with_its_counters(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, WORKER) == "101 2 serving 8.2 12,345 7 1 3 52.0 MB"


def test_what_is_not_known_of_a_worker_is_left_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, replace(WORKER, rate=None, memory=None)) == "101 2 serving 12,345 7 1 3"


def test_the_oldest_request_is_shown_with_its_age(capsys: pytest.CaptureFixture[str]) -> None:
    assert " 3.00 s " in row(capsys, replace(WORKER, oldest=3.0))


def test_websockets_and_streams_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    talking = replace(WORKER, connections=1500, in_flight=1200, websockets=1100, streams=20)
    assert " 1,500 (1,100 WebSockets, 20 streams) " in row(capsys, talking)
    draining = replace(talking, state="draining", draining_for=1.0, websockets=0)
    (line,) = (each for each in shown(capsys, replace(SERVICE, workers=(draining,))) if " drains for " in each)
    assert line.endswith("1200 requests (20 streams); 300 idle connections")


def test_a_worker_of_another_master_is_shown_with_that(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, replace(WORKER, master=99, state="relayed")).startswith("101 99/2 relayed ")


def test_what_a_drain_waits_for_is_added_up_for_each_generation(capsys: pytest.CaptureFixture[str]) -> None:
    draining = replace(WORKER, state="draining", draining_for=4.0, in_flight=2, connections=5, held=1)
    workers = (
        replace(draining, oldest=9.0),
        replace(draining, pid=102, draining_for=6.0),
        replace(draining, pid=103, master=99, in_flight=0, connections=0, held=0),
        replace(WORKER, pid=104),
    )
    first, second = (line for line in shown(capsys, replace(SERVICE, workers=workers)) if " drains for " in line)
    assert first.startswith("generation 2 drains for 6.00 s of at most 30.00 s")
    assert first.endswith("4 requests, the oldest for 9.00 s; 2 holds; 6 idle connections")
    assert second.startswith("generation 2 of main process 99 drains for 4.00 s")
    assert second.endswith("nothing more")


def test_the_last_restart_is_shown_with_what_clients_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    restart = Restart("restart", ago=60.0, took=2.5, longest_wait=0.004, carried=12)
    text = "\n".join(shown(capsys, replace(SERVICE, restart=restart)))
    assert f"generation 2, main process {MASTER}, ready for " in text
    assert "last restart: took 2.50 s, longest wait " in text
    assert "12 connections carried" in text
    unknown = replace(restart, longest_wait=None, carried=None)
    text = "\n".join(shown(capsys, replace(SERVICE, restart=unknown, generation=None)))
    assert f"\nmain process {MASTER}, ready for " in text
    assert "longest wait" not in text


@pytest.mark.parametrize(
    ("uid", "user", "command"),
    [(0, False, "journalctl"), (1000, False, "sudo journalctl"), (1000, True, "journalctl --user")],
)
def test_the_command_for_the_journal_works_as_it_is_typed(
    uid: int, user: bool, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    output.show(replace(SERVICE, state="failed"), user=user)
    line = f"app.service: failed (see {command} -e -u app.service)"
    assert capsys.readouterr().out.splitlines()[0].rstrip() == line


def test_a_service_that_is_not_active_has_its_reason_and_its_old_workers(capsys: pytest.CaptureFixture[str]) -> None:
    failed = replace(
        SERVICE,
        state="failed",
        status="",
        main_pid=0,
        failure="no database",
        workers=(replace(WORKER, state="relayed"),),
    )
    lines = shown(capsys, failed)
    assert lines[0].startswith("app.service: failed (see ")
    assert lines[1] == "no database"
    assert lines[2].startswith("1 old workers ")


@pytest.mark.parametrize(
    ("listener", "line"),
    [
        (Listener("http", "127.0.0.1:80", 3, 4096, is_listening=True), "http 127.0.0.1:80 3 4,096"),
        (Listener("http", "127.0.0.1:80", None, 4096, is_listening=True), "http 127.0.0.1:80 ? 4,096"),
        (Listener("http", "127.0.0.1:80", 3, 4096, is_listening=False), "http 127.0.0.1:80 closed 4,096"),
    ],
    ids=["waiting", "unknown", "closed"],
)
def test_a_listener_is_shown_with_what_waits_at_it(
    capsys: pytest.CaptureFixture[str], listener: Listener, line: str
) -> None:
    assert shown(capsys, replace(SERVICE, listeners=(listener,)))[-1] == line


def test_each_look_of_a_watch_is_printed_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.watch(iter([SERVICE, replace(SERVICE, state="reloading")]))
    text = capsys.readouterr().out
    assert text.index("app.service: active") < text.index("app.service: reloading")


def test_warnings_and_missing_workers_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, replace(SERVICE, warnings=("app.socket is masked",), remark="no scoreboard", overlaps=False))
    assert "Warning: app.socket is masked" in lines
    assert lines[-1].endswith("no scoreboard")
    assert any("--no-overlap" in line for line in lines)
