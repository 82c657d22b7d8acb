"""Which descriptors are reserved for the application. Tests that change limits are processes of their own."""

from __future__ import annotations

import os
import resource
import sys

import pytest

from flask_socketact.linux import descriptors
from tests.support.child import in_child


def set_limit(soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_highest_descriptors_are_reserved() -> None:
    def run() -> None:
        set_limit(500)
        assert descriptors.first_reserved() == 500 - descriptors.RESERVE

    assert in_child(run) == 0


@pytest.mark.parametrize("limit", [200, descriptors.LOW_LIMIT + descriptors.RESERVE])
def test_there_is_room_until_only_the_reserve_is_left(limit: int) -> None:
    """With a low limit open descriptors are counted, with a high one the next number tells."""

    def run() -> None:
        set_limit(limit)
        assert descriptors.has_room(0)
        read, _ = os.pipe()
        opened = []
        while descriptors.has_room(0):
            opened.append(os.dup(read))
            assert len(opened) < limit
        free = 0
        while True:
            try:
                os.dup(read)
            except OSError:
                break
            free += 1
        assert descriptors.RESERVE - 2 <= free <= descriptors.RESERVE + 2
        assert not descriptors.has_room(0)  # nor when there is none at all
        os.closerange(opened[0], opened[0] + 20)
        assert descriptors.has_room(0)

    assert in_child(run) == 0


def test_a_descriptor_never_takes_the_place_of_a_closed_stream() -> None:
    def run() -> None:
        os.closerange(0, 3)
        read, write = os.pipe()
        assert (read, write) == (0, 1)
        moved = descriptors.above_streams(read)
        assert moved > descriptors.STDERR
        assert not os.get_inheritable(moved)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
        os.write(write, b"x")
        assert os.read(moved, 1) == b"x"

    assert in_child(run) == 0


def test_another_descriptor_stays_as_it_is() -> None:
    with open(os.devnull) as file:
        assert descriptors.above_streams(file.fileno()) == file.fileno()
        assert os.fstat(file.fileno())


def test_without_a_limit_no_descriptor_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert descriptors.first_reserved() == sys.maxsize
