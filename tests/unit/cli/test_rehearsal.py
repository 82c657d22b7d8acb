"""The rehearsal's clients with services that fail, and the results."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from flask_socketact.cli import main
from flask_socketact.cli.rehearse import output, target
from flask_socketact.cli.rehearse.clients import IDLE, KEEP_ALIVE, NEW, SILENT, SLOW, UPLOADING, Group, Kind, Pace
from flask_socketact.cli.rehearse.outcome import (
    AFTER,
    BEFORE,
    DURING,
    account,
    judge,
    parse_conditions,
    percentile,
    phase,
)
from flask_socketact.cli.rehearse.recording import Recording, Restart
from flask_socketact.cli.rehearse.report import FORMAT, read
from flask_socketact.cli.rehearse.run import Plan, rehearse
from flask_socketact.errors import OptionError, RehearsalError, ReportError, SocketActError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
PACE = Pace(think=0.02, idle=0.2, slow=0.1, timeout=0.6)

NOBODY = ["--clients=0", "--keep-alive=0", "--idle=0", "--silent=0", "--slow=0"]

#: What a service does with a connection whose first request has been read.
Answer = Callable[[socket.socket], None]


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """Respond correctly until the rehearsal has begun, then as given; yield the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = 0

    def serve(client: socket.socket, number: int) -> None:
        with client, suppress(OSError):
            if number <= 2:  # is the address there at all, and the probe
                client.recv(65536)
                client.sendall(OK)
            else:
                answer(client)

    def accept() -> None:
        nonlocal seen
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                seen += 1
                threading.Thread(target=serve, args=(client, seen), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def see(answer: Answer, kind: Kind = NEW, *, seconds: float = 0.3) -> Recording:
    with service(answer) as url:
        plan = Plan([Group(kind, 1, target.parse(url))], [], restarts=0, every=seconds, pace=PACE)
        return rehearse(plan, lambda _recording, _doing: None)


def reply(*answers: bytes) -> Answer:
    """Send each of these after receiving something, then close."""

    def answer(client: socket.socket) -> None:
        for text in answers:
            client.recv(65536)
            client.sendall(text)

    return answer


def reset(client: socket.socket) -> None:
    client.recv(65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def hang(client: socket.socket) -> None:
    client.recv(65536)
    client.recv(65536)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply(b""), "closed without a response"),
        (reply(OK[:-1]), "closed within the response"),
        (reply(b"HTTP/1.1 200 OK\r\nContent-"), "closed without a response"),
        (reply(b"SSH-2.0-OpenSSH\r\n\r\n"), "malformed response"),
        (reply(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "status 502"),
        (reply(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "status 404"),
        (reset, "connection reset"),
        (hang, "no response within 0.6 s"),
    ],
)
def test_every_failure_has_its_reason(answer: Answer, why: str) -> None:
    recording = see(answer)
    (only, together) = account(recording)
    assert set(only.reasons) == {why}
    assert only.failed == only.requests == together.failed > 0


def test_connection_refused_is_a_failure() -> None:
    """The service stops; clients continue, with pauses."""
    with service(reply(OK)) as url:
        where = target.parse(url)
    plan = Plan([Group(NEW, 1, where)], [], restarts=0, every=0.5, pace=PACE)
    with pytest.raises(
        RehearsalError, match=r"connection refused, before anything was restarted: start the service first$"
    ):
        rehearse(plan, lambda _recording, _doing: None)


def test_closes_that_clients_notice_are_counted_and_others_are_not() -> None:
    assert not see(reply(OK), NEW).closed_at
    assert not see(reply(CLOSE), NEW).closed_at
    for answer in (reply(OK), reply(CLOSE)):
        recording = see(answer, KEEP_ALIVE)
        assert account(recording)[0].failed == 0
        # The last may be closed when the client is through with it already.
        assert len(recording) - 1 <= len(recording.closed_at) <= len(recording)
    lasting = see(reply(*[OK] * 1000), KEEP_ALIVE)
    assert len(lasting) > 5
    assert not lasting.closed_at


def test_the_close_of_an_idle_connection_has_its_time() -> None:
    recording = see(reply(OK), IDLE, seconds=1.0)
    assert recording.closed_at
    ended = [row.began + row.took for row in recording]
    assert all(min(abs(at - end) for end in ended) < 0.1 for at in recording.closed_at)


def test_deliberate_pauses_are_not_waits() -> None:
    for kind in (SILENT, SLOW, UPLOADING):

        def read_all(client: socket.socket, kind: Kind = kind) -> None:
            wanted = b"0" * 100 if kind is UPLOADING else b"\r\n\r\n"
            data = b""
            while not (len(data) > 100_000 if kind is UPLOADING else data.endswith(wanted)):
                data += client.recv(65536)
            client.sendall(OK)

        recording = see(read_all, kind)
        (only, _) = account(recording)
        assert only.requests > 0
        assert only.reasons == {}
        assert min(recording.own) >= 0.09
        assert only.max < 0.09


def test_a_response_before_the_end_of_an_upload_counts_with_a_close() -> None:
    recording = see(reply(OK), UPLOADING)
    assert account(recording)[0].failed == 0
    assert len(recording.closed_at) == len(recording) > 0


def test_informational_responses_are_not_final() -> None:
    recording = see(reply(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK))
    assert account(recording)[0].reasons == {}


def test_chunked_responses_and_those_that_end_with_the_connection() -> None:
    for text in (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nok",
    ):
        assert account(see(reply(text)))[0].reasons == {}


@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000), "/"),
        ("http://127.0.0.1/a?b=c", ("127.0.0.1", 80), "/a?b=c"),
        ("http://[::1]:8000/", ("::1", 8000), "/"),
    ],
)
def test_urls(url: str, address: tuple[str, int], path: str) -> None:
    found = target.parse(url)
    assert (found.address, found.path) == (address, path)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "https://127.0.0.1/",
        "http://",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:8000/a b",
        "http://127.0.0.1:8000/\r\nX: y",
        "http://127.0.0.1:8000/ä",
        "http://user@127.0.0.1/",
        "http://127.0.0.1/#top",
        "http://host.invalid/",
        "http://192.0.2.1/",
        "http://0.0.0.0/",
        "",
    ],
)
def test_malformed_urls_and_other_machines(url: str) -> None:
    with pytest.raises(SocketActError) as caught:
        target.parse(url)
    assert "\n" not in str(caught.value)


def test_a_unix_socket_needs_no_lookup() -> None:
    assert target.parse("http://192.0.2.1/", unix_socket="/run/app.sock").address == "/run/app.sock"


def test_places_are_those_of_socket_units() -> None:
    assert target.parse("http://127.0.0.1:8000").place == "127.0.0.1:8000"
    assert target.parse("http://[::1]:8000").place == "[::1]:8000"
    assert target.parse("http://app/", unix_socket="/run/http.sock").places == ["/run/http.sock"]
    assert target.parse("http://127.0.0.1:80").places == ["127.0.0.1:80", "[::]:80", "0.0.0.0:80"]
    assert target.parse("http://[::1]:80").places == ["[::1]:80", "[::]:80"]


def recorded(*rows: tuple[float, float, str], restarts: tuple[tuple[float, float], ...] = ()) -> Recording:
    """Return a recording of one kind: start, duration and failure of each request."""
    recording = Recording(["new connection"])
    for began, took, failure in rows:
        recording.add(0, began, took, 0.0, failure)
    recording.restarts = [Restart(began, ended, 0) for began, ended in restarts]
    recording.seconds = 100.0
    return recording


def test_phases() -> None:
    rows = [(0.0, 1.0, ""), (9.5, 1.0, ""), (10.5, 0.1, ""), (11.5, 0.1, ""), (14.0, 0.1, ""), (20.5, 0.1, "")]
    recording = recorded(*rows, restarts=((10.0, 11.0), (20.0, 21.0)))
    assert [phase(row, recording) for row in recording] == [BEFORE, DURING, DURING, DURING, AFTER, DURING]


def test_a_wait_is_the_time_beyond_the_usual() -> None:
    rows = [(0.0, 3.0, ""), (1.0, 3.0, ""), (2.0, 3.1, ""), (12.0, 10.0, ""), (13.0, 3.0, "")]
    (only, together) = account(recorded(*rows, restarts=((11.0, 12.5),)))
    assert only.wait == together.wait == pytest.approx(7.0)
    assert (only.p50, only.max) == (3.0, 10.0)


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([float(n) for n in range(1, 102)], 0.99) == 100.0


def test_conditions() -> None:
    recording = recorded((0.0, 0.1, ""), (1.0, 0.1, ""), (1.0, 2.1, "connection reset"))
    recording.restarts = [Restart(1.0, 1.5, 1, "no database")]
    conditions = parse_conditions("failed>0, wait>=2,closed>0,p99>5,failed-restarts>0")
    verdict = judge(recording, conditions)
    assert verdict.broken == ["failed>0: 1", "wait>=2: 2", "failed-restarts>0: 1"]
    assert not verdict.is_kept
    assert verdict.sentence == (
        "3 requests, 1 failed, 0 connections closed, 1 restart (1 of them failed), longest wait 2.00 s"
    )
    assert judge(recording, parse_conditions("failed>1")).is_kept


@pytest.mark.parametrize("text", ["", "failed", "failed<1", "failed>", "errors>0", "failed>0,", "p99>nan", "wait>1s"])
def test_malformed_conditions(text: str) -> None:
    with pytest.raises(OptionError, match="is not a condition: write one of failed, closed, wait, p99, failed-re"):
        parse_conditions(text)


def earlier(folder: Path, kind: str) -> Path:
    """Create a file that is not a report."""
    path = folder / f"{kind}.html"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 6_000_000_000)
    else:
        begin = '<script type="application/json" id="runs">'
        path.write_text(begin + {"deep": "[" * 500_000, "poor": f'[{{"format": {FORMAT}}}]</script>'}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fifo", "cannot be read: not a regular file"),
        ("sparse", "cannot be read: larger than"),
        ("deep", "is not a report of flask-socketact rehearse"),
        ("poor", "is not a report of flask-socketact rehearse"),
    ],
)
def test_an_earlier_report_that_is_malformed(tmp_path: Path, kind: str, words: str) -> None:
    arguments = ["--report", str(tmp_path / "new.html"), "--compare", str(earlier(tmp_path, kind)), "--do", "true"]
    done = CliRunner().invoke(main, ["rehearse", *arguments])
    assert done.exit_code == 3, done.output
    assert words in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_the_report_goes_to_the_folder_that_was_opened_first(tmp_path: Path) -> None:
    """Its owner replaces it with a link while the rehearsal runs."""
    theirs, other = tmp_path / "theirs", tmp_path / "other"
    theirs.mkdir()
    other.mkdir()
    swap = f"sh -c 'mv {theirs} {tmp_path}/moved && ln -s {other} {theirs}'"
    with service(reply(*[OK] * 1000)) as url:
        arguments = ["--url", url, "--do", swap, "--restarts", "1", "--every", "0.5", *NOBODY, "--clients=1"]
        done = CliRunner().invoke(main, ["rehearse", "--report", str(theirs / "report.html"), *arguments])
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.rglob("*.html")] == ["report.html"]
    assert (tmp_path / "moved/report.html").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_user_cannot_redirect_the_report_of_root(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    (tmp_path / "theirs/link").symlink_to("/etc")
    os.chown(tmp_path / "theirs/link", 12345, 12345, follow_symlinks=False)
    done = CliRunner().invoke(main, ["rehearse", "--report", str(tmp_path / "theirs/link/report.html"), "--do", "true"])
    assert done.exit_code == 2
    assert "is not safe for root to write to: uid 12345 owns a part of the path" in done.stderr


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    recording = recorded()
    recording.restarts = [Restart(1.0, 1.5, 1, "\x1b[31mred")]
    output.show(recording, judge(recording, []))
    assert "exit status 1: ?[31mred" in capsys.readouterr().out


def test_files_that_are_not_reports(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    begin = '<script type="application/json" id="runs">'
    for text in (
        "",
        "<html>",
        f"{begin}[]</script>",
        f"{begin}[1]</script>",
        f"{begin}{{}}</script>",
        f"{begin}[{{}}]",
    ):
        path.write_text(text)
        with pytest.raises(
            ReportError, match=r"report\.html is not a report of flask-socketact rehearse: correct --compare$"
        ):
            read(path)
    path.write_text(f'{begin}[{{"format": 0}}]</script>')
    with pytest.raises(ReportError, match="made by another version: rehearse again"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match="is not a report"):
        read(path)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--fail-on", "x>1"], 2, "'x>1' is not a condition"),
        (["--do", ""], 2, "the command is empty"),
        (["--do", "systemctl 'restart"], 2, "is not a command: No closing quotation"),
        (["--restarts", "-1"], 2, "-1 is not in the range"),
        (["--every", "0"], 2, "is not in the range"),
        (["--compare", "/etc/passwd"], 2, "add --report FILE"),
        (["--report", "/nonexistent/r.html"], 2, "/nonexistent is not a writable folder"),
        (["--report", "/"], 2, "is a directory"),
        (["--url", "http://192.0.2.1/"], 3, "add --allow-remote if the machine is yours"),
        (
            ["--url", "http://127.0.0.1:1/"],
            3,
            "no socket unit listens at 127.0.0.1:1: set the command",
        ),
        (["--do", "nonexistent-command"], 3, "there is no command nonexistent-command"),
        (["--do", "true", "--url", "http://127.0.0.1:1/"], 3, "connection refused, before anything was restarted"),
        (["--do", "true", "--long-path", "sleep"], 2, "'sleep' is not a path"),
        (
            ["--clients=0", "--keep-alive=0", "--idle=0", "--silent=0", "--slow=0"],
            2,
            "set --clients or another option",
        ),
        (["--do", "true", "--idle", "50000", "--clients", "50000"], 3, "need more file descriptors than the"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _which: (1024, 4096))
    result = CliRunner().invoke(main, ["rehearse", *arguments])
    assert result.exit_code == status
    lines = result.output.splitlines()
    assert text in lines[-1]
    assert lines[-1].startswith("Error: ")


def test_json_output() -> None:
    with service(reply(*[OK] * 1000)) as url:
        arguments = [
            "--url",
            url,
            "--do",
            "false",
            "--restarts",
            "1",
            "--every",
            "0.5",
            "--idle",
            "0",
            "--think",
            "0.02",
        ]
        counts = ["--clients", "1", "--keep-alive", "0", "--silent", "0", "--slow", "0"]
        result = CliRunner().invoke(main, ["rehearse", "--json", *arguments, *counts])
    found = json.loads(result.output)
    assert result.exit_code == 1
    assert found["broken"] == ["failed-restarts>0: 1"]
    assert [each["kind"] for each in found["accounts"]] == ["new connection", "all"]
    assert found["accounts"][0]["requests"] > 10
