"""Where a frame may begin in what a server has sent on a WebSocket."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from flask_socketact.http import websocket
from flask_socketact.http.websocket import SentFrames, close_frame

HANDSHAKE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frames_of(*pieces: bytes | bytearray) -> SentFrames:
    frames = SentFrames()
    for piece in pieces:
        frames.add(piece)
    return frames


def test_nothing_may_be_sent_before_the_handshake() -> None:
    assert not SentFrames().may_close
    assert not frames_of(HANDSHAKE[:-1]).may_close
    assert frames_of(HANDSHAKE).may_close


@pytest.mark.parametrize("other", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" * 2000])
def test_other_protocols_get_no_frame(other: bytes) -> None:
    assert not frames_of(other).may_close
    assert not frames_of(other, HANDSHAKE).may_close


@given(st.lists(st.binary(max_size=70_000), min_size=1, max_size=3), st.data())
def test_a_frame_may_begin_only_between_frames(payloads: list[bytes], data: st.DataObject) -> None:
    """Frames of all lengths, made by wsproto, in pieces."""
    protocol = FrameProtocol(client=False, extensions=[])
    made = [protocol.send_data(payload, fin=True) for payload in payloads]
    whole = HANDSHAKE + b"".join(made)
    ends = {len(HANDSHAKE) + sum(map(len, made[:number])) for number in range(len(made) + 1)}
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=4)))
    frames, before = SentFrames(), 0
    for cut in (*cuts, len(whole)):
        frames.add(whole[before:cut])
        assert frames.may_close == (cut in ends)
        before = cut


def test_masked_frames_of_a_client() -> None:
    protocol = FrameProtocol(client=True, extensions=[])
    assert frames_of(HANDSHAKE, protocol.send_data(b"x" * 300, fin=True)).may_close


def test_no_second_close_frame() -> None:
    frames = frames_of(HANDSHAKE, close_frame(websocket.SERVICE_RESTART))
    assert frames.closed_at is not None
    assert not frames.may_close


def test_wsproto_reads_our_close_frame() -> None:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(close_frame(websocket.GOING_AWAY))
    (frame,) = protocol.received_frames()
    assert frame.payload == (1001, "")


def test_sockets_follow_what_they_send() -> None:
    """Also with sendall(), which sends in parts."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = websocket.following_class(socket.socket)(fileno=ours.detach())
        with sender:
            sender.frames = SentFrames()
            sender.sendall(HANDSHAKE)
            assert sender.frames.may_close
            assert sender.send(b"\x82") == 1
            assert not sender.frames.may_close
            sender.sendall(memoryview(b"\x03abc"))
            assert sender.frames.may_close
        assert theirs.recv(4096) == HANDSHAKE + b"\x82\x03abc"
