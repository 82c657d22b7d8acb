"""The end of a response that its client has not taken yet. The loop sends it, so that it occupies no thread."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask_socketact.errors import SocketActError
from flask_socketact.http.memory import Memory

if TYPE_CHECKING:
    from flask_socketact.http.transport import Transport

#: Most bytes of responses that one worker keeps for clients that do not take them; a thread waits for the client of one
#: more.
MAX_UNSENT = 64 * 1024 * 1024
_memory = Memory(MAX_UNSENT)
#: Most bytes that are sent in one turn of the loop, before other connections have theirs.
STEP = 1024 * 1024


class ShorterFileError(SocketActError):
    """A file has become shorter while it was sent."""

    def __init__(self, left: int) -> None:
        super().__init__(f"a file that was sent has become shorter, by {left} bytes")
        self.left = left  #: bytes that cannot be sent


@dataclass
class _FileRange:
    fd: int  #: a duplicate: the application closes its file
    offset: int
    count: int


class Unsent:
    """Parts of a response, in order."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: deque[memoryview | _FileRange] = deque()
        self._size = 0  # bytes in memory

    def add(self, data: bytes | memoryview) -> bool:
        """Keep a copy of `data`; return False if this worker keeps too much already.

        The original may be a part of something larger. The copy is in pieces, which are freed one by one.
        """
        if not _memory.take(len(data)):
            return False
        self._size += len(data)
        view = memoryview(data)
        self._parts.extend(memoryview(bytes(view[start : start + STEP])) for start in range(0, len(view), STEP))
        return True

    def add_file(self, file: Any, offset: int, count: int) -> None:
        self._parts.append(_FileRange(os.dup(file.fileno()), offset, count))

    def send(self, connection: Transport) -> bool:
        """Send what the kernel takes now, up to :data:`STEP` bytes; return whether nothing is left.

        :raises OSError: the connection is broken.
        :raises ShorterFileError: a file has become shorter.
        """
        sent = 0
        while self._parts and sent < STEP:
            part = self._parts[0]
            try:
                number = self._send_part(connection, part)
            except BlockingIOError:
                return False
            sent += number
        return not self._parts

    def send_all(self, connection: Transport) -> bool:
        """Send what the kernel takes now, however much that is; return whether nothing is left."""
        while self._parts:
            before = len(self._parts), self._parts[0]
            if not self.send(connection) and (len(self._parts), self._parts[0]) == before:
                return False
        return True

    def _send_part(self, connection: Transport, part: memoryview | _FileRange) -> int:
        if isinstance(part, memoryview):
            number = connection.send_now(part)
            self._size -= number
            _memory.give_back(number)
            if number == len(part):
                self._parts.popleft()
            else:
                self._parts[0] = part[number:]
            return number
        number = connection.send_file_now(part.fd, part.offset, min(part.count, STEP))
        if not number:
            raise ShorterFileError(part.count)
        part.offset += number
        part.count -= number
        if not part.count:
            os.close(part.fd)
            self._parts.popleft()
        return number

    def discard(self) -> None:
        """Close the files. Called when the connection is closed."""
        for part in self._parts:
            if isinstance(part, _FileRange):
                os.close(part.fd)
        self._parts.clear()
        _memory.give_back(self._size)
        self._size = 0
