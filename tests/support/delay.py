"""A proxy that gives each connection the round trip of a distant client.

On one machine a FIN reaches its peer in microseconds; on the way to a distant one it crosses with requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.http import Connect

BLOCK = 65536


class DelayingProxy:
    """Listens on the loopback for the length of a ``with`` block, and forwards bytes and ends, late."""

    def __init__(self, connect: Connect, round_trip: float) -> None:
        """`connect` dials the server; `round_trip` is in seconds."""
        self._connect = connect
        self._delay = round_trip / 2

    def __enter__(self) -> DelayingProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        start = asyncio.start_server(self._forward, "127.0.0.1", 0, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self._address = self._server.sockets[0].getsockname()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=60)

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        upstream = await asyncio.to_thread(self._connect)
        server, to_server = await asyncio.open_connection(sock=upstream)
        try:
            await asyncio.gather(self._pump(client, to_server), self._pump(server, to_client))
        finally:
            to_server.transport.abort()
            to_client.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Forward until the source ends; a reset at either side ends the other at once, late enough."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(late, target))
        data = b"."
        while data:
            try:
                data = await source.read(BLOCK)
            except OSError:
                data = b""
            late.put_nowait((self._loop.time() + self._delay, data))
        await writing

    async def _write(self, late: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        data = b"."
        while data:
            due, data = await late.get()
            await asyncio.sleep(due - self._loop.time())
            with contextlib.suppress(OSError):  # its reader sees the end, too
                if data:
                    target.write(data)
                    await target.drain()
                else:
                    target.write_eof()
