"""Connections in messages, and malformed or hostile messages."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.handover.mailbox import Mailbox, Origin

ORIGIN = Origin("http", served=True)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mailbox"))
        listener.listen()
        yield Mailbox(listener)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def connections(count: int) -> list[tuple[socket.socket, socket.socket]]:
    """Return pairs of a client and the server's end."""
    with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
        return [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(count)]


def read_all(box: Mailbox) -> Iterator[tuple[Origin, list[socket.socket], list[str]]]:
    while sender := box.accept():
        with sender:
            while message := mailbox.receive(sender):
                yield message


@pytest.mark.parametrize("count", [1, 250, 251, 600])
def test_connections_are_received_open(box: Mailbox, count: int) -> None:
    """Though the sender has closed its copies before a receiver accepts."""
    before = open_descriptors()
    pairs = connections(count)
    sent = 0
    for fds in box.send([(ORIGIN, server.fileno()) for _, server in pairs], mailbox.MAX_DESCRIPTORS):
        sent += len(fds)
    assert sent == count
    for _, server in pairs:
        server.close()
    received = []
    for origin, servers, refused in read_all(box):
        assert (origin, refused) == (ORIGIN, [])
        received += servers
    for server in received:
        server.sendall(b"%d" % server.getpeername()[1])
    for client, _ in pairs:
        assert client.recv(10) == b"%d" % client.getsockname()[1]
        client.close()
    for server in received:
        server.close()
    assert open_descriptors() == before


def test_connections_of_different_origins_come_in_different_messages(box: Mailbox) -> None:
    pairs = connections(4)
    proxy = (("client_addr", "192.0.2.1"), ("client_port", 4000))
    origins = [Origin("http", served=True), Origin(None, served=False), Origin("http", served=True, proxy=proxy)]
    with_origins = [(origins[index % 3], server.fileno()) for index, (_, server) in enumerate(pairs)]
    assert [len(fds) for fds in box.send(with_origins, 250)] == [2, 1, 1]
    received = list(read_all(box))
    assert [(origin, len(servers)) for origin, servers, _ in received] == list(zip(origins, (2, 1, 1), strict=True))
    for ends in [*pairs, *(servers for _, servers, _ in received)]:
        for end in ends:
            end.close()


def test_bytes_that_were_read_already_are_sent_along(box: Mailbox) -> None:
    """They are arbitrary bytes; a version that does not know them reads messages without them."""
    ((client, server),) = connections(1)
    unread = b"GET / HTTP/1.1\r\n\n\0\xff" + b"x" * (mailbox.MAX_UNREAD - 20)
    origin = Origin("http", served=True, unread=unread)
    list(box.send([(origin, server.fileno())], 250))
    ((received, (carried,), refused),) = read_all(box)
    assert (received, refused) == (origin, [])
    assert json.loads(ORIGIN.pack()) == {"version": 1, "listener": "http", "served": True, "proxy": None}
    for end in (client, server, carried):
        end.close()


def test_a_full_mailbox_leaves_the_connections_to_the_sender(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mailbox"))
        listener.listen(1)
        box = Mailbox(listener)
        pairs = connections(10)
        sent: list[int] = []
        sending = box.send([(ORIGIN, server.fileno()) for _, server in pairs], 1)
        with pytest.raises(MailboxError, match="cannot send to the mailbox"):
            sent.extend(fd for fds in sending for fd in fds)
        assert 0 < len(sent) < 10
        assert box.drop_all() == len(sent)
        for pair in pairs:
            for end in pair:
                end.close()


def test_a_removed_mailbox_is_an_error(tmp_path: Path, box: Mailbox) -> None:
    (tmp_path / "mailbox").unlink()
    with pytest.raises(MailboxError, match="cannot send to the mailbox"):
        list(box.send([(ORIGIN, 0)], 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_sender_of_another_user_is_rejected(tmp_path: Path, box: Mailbox) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "mailbox").chmod(0o666)
    before = open_descriptors()
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sender.connect(str(tmp_path / "mailbox"))
        socket.send_fds(sender, [ORIGIN.pack()], [0, 1, 2])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(MailboxError, match="rejected sender: uid 65534"):
        box.accept()
    assert open_descriptors() == before


def test_nothing_is_sent_to_another_process_at_the_mailbox_s_address(tmp_path: Path, box: Mailbox) -> None:
    """Another process has bound a socket at the address of our mailbox."""
    path = tmp_path / "mailbox"
    path.unlink()
    read, write = os.pipe()
    ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        impostor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        impostor.bind(str(path))
        impostor.listen()
        os.write(ready[1], b".")
        os.read(read, 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(MailboxError, match="another process listens"):
            list(box.send([(ORIGIN, 0)], 1))
    finally:
        for fd in (write, read, *ready):
            os.close(fd)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file", "not a socket"),
        ("pipe", "not a socket"),
        ("datagram", "another kind"),
        ("packets", "another kind"),
        ("listener", "a listener"),
        ("unconnected", "not connected"),
    ],
)
def test_descriptors_that_are_not_connections_are_refused(box: Mailbox, kind: str, reason: str) -> None:
    before = open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener, open(os.devnull) as file:
        read, write = os.pipe()
        packets, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made = {
            "file": file.fileno(),
            "pipe": read,
            "datagram": socket.socket(type=socket.SOCK_DGRAM).detach(),
            "packets": packets.fileno(),
            "listener": listener.fileno(),
            "unconnected": socket.socket().detach(),
        }
        ((client, server),) = connections(1)
        list(box.send([(ORIGIN, made[kind]), (ORIGIN, server.fileno())], 250))
        ((_, received, (refused,)),) = read_all(box)
        assert reason in refused
        assert len(received) == 1  # a good one next to it is served
        for end in (client, server, packets, other, *received):
            end.close()
        for name in ("datagram", "unconnected"):
            os.close(made[name])
        os.close(read)
        os.close(write)
    assert open_descriptors() == before


def test_a_message_of_another_version_is_an_error(box: Mailbox) -> None:
    deliver(box, json.dumps({"version": 2, "listener": None, "served": True, "proxy": None}).encode(), 1)
    with pytest.raises(MailboxError, match="not of version 1"):
        list(read_all(box))


def deliver(box: Mailbox, data: bytes, descriptors: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sender:
        sender.connect(box.listener.getsockname())
        fds = array.array("i", [0] * descriptors)
        sender.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if descriptors else [])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
MESSAGES = (
    st.binary(min_size=1, max_size=2 * mailbox.MAX_MESSAGE)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "version": st.just(1) | VALUES,
            "listener": st.text() | VALUES,
            "served": st.booleans() | VALUES,
            "proxy": st.lists(st.tuples(st.text(), VALUES)) | VALUES,
        },
    ).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=MESSAGES, descriptors=st.integers(0, 253))
@example(data=ORIGIN.pack(), descriptors=253)
@example(data=b"[" * 15_000, descriptors=1)
@example(data=b"9" * 10_000, descriptors=1)
@example(data=b" " * (mailbox.MAX_MESSAGE + 1), descriptors=3)
def test_no_message_crashes_or_leaks(box: Mailbox, data: bytes, descriptors: int) -> None:
    before = open_descriptors()
    deliver(box, data, descriptors)
    try:
        for origin, received, refused in read_all(box):
            assert isinstance(origin, Origin)
            hash(origin)  # it is compared, and grouped by
            assert received == []
            assert len(refused) == descriptors
    except MailboxError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either is right)
    assert open_descriptors() == before
