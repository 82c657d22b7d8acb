"""The thread pool, after the pattern Leader/Followers (Schmidt et al., Pattern-Oriented Software Architecture, vol. 2).

One thread is the leader: it polls, and serves the requests that arrive itself. When it has been inside one request for
a few milliseconds, a follower is promoted to leader; at once, if requests usually take longer than that. So short
requests are never passed between threads, and do not compete for the interpreter's lock.

A follower sleeps until it is promoted. When its request has ended, a former leader is a follower, or leader again if
the new one is inside a long request. While all threads are inside requests, the last leader remains it, and none polls.
"""

from __future__ import annotations

import threading
import time
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING

from flask_socketact import env
from flask_socketact.http.connection import Connection
from flask_socketact.http.states import NextRequest
from flask_socketact.linux.timer import Alarm
from flask_socketact.shared.slot import Field
from flask_socketact.workers.base import HEARTBEAT
from flask_socketact.workers.drain import DRAIN_POLL
from flask_socketact.workers.lasting import LastingRequests, RequestThread
from flask_socketact.workers.pool_thread import Bounded, PoolThread
from flask_socketact.workers.request_cycle import Outcome, RequestCycle
from flask_socketact.workers.upgrades import Upgrades

if TYPE_CHECKING:
    from flask_socketact.workers.thread import ThreadWorker

#: How long the leader may be inside one request before a follower is promoted, in seconds.
PROMOTE_AFTER = 0.005
#: Number of requests over which the mean duration is smoothed.
SMOOTHING = 8
_IN_FLIGHT, _REQUESTS = int(Field.IN_FLIGHT), int(Field.REQUESTS)  # an index of an enum takes longer


class ThreadPool:
    """The request threads of one worker. They run as long as the worker. The loop's lock guards who is the leader."""

    def __init__(self, worker: ThreadWorker) -> None:
        """`worker` has its loop already."""
        self._worker = worker
        self._loop = worker.loop
        self._log = worker.log
        self._fields = worker.slot.fields
        self.upgrades = Upgrades(worker)
        self.streams = LastingRequests(worker, "stream", env.MAX_STREAMS, env.max_streams(), Field.STREAMS)
        self._cycle = RequestCycle(worker, self.upgrades, self._begin_upgrade)
        self.alarm = Alarm(PROMOTE_AFTER)  #: expires when the leader may have been inside one request for too long
        self._promotions: SimpleQueue[None] = SimpleQueue()  # each item wakes one follower
        self.threads: list[RequestThread] = []
        self.followers = 0  #: number of followers
        self.leader: RequestThread | None = None
        self._numbers = count()
        self._mean_seconds = 0.0  # running mean of request durations
        self._turns_begun = self._turns_ended = 0  # of connections; the difference is in flight
        self.is_drained = False  #: the drain is complete
        self.is_broken = False  #: the loop has failed too often

    @property
    def are_idle(self) -> bool:
        """Whether no request is in flight."""
        return self._turns_begun == self._turns_ended

    def start(self, number: int) -> None:
        """Start `number` threads, and make one of them the leader."""
        self._promotions.put(None)
        for _ in range(number):
            self._add_thread()

    def _add_thread(self) -> None:
        """Start a thread, and wait until it is in the pool. Called without the loop's lock: without memory
        a new thread may never run.

        :raises RuntimeError: no thread can be started, or it does not run.
        """
        thread = RequestThread()
        is_there = Bounded()
        thread.handle = PoolThread(target=self._run, args=(thread, is_there), daemon=True)
        thread.handle.name = f"request-{next(self._numbers)}"
        thread.handle.start()
        is_there.wait()

    def begin_stream(self) -> bool:
        """Let the calling thread leave the pool to serve a stream, if it is in the pool; return whether it may.

        :raises RuntimeError: no thread can be started in its place.
        """
        thread = next((each for each in self.threads if each.handle is threading.current_thread()), None)
        if thread is None or thread.connection is None:  # it has left, or is not ours
            return True
        if not self.streams.reserve():
            return False
        try:
            self._leave(thread, thread.connection, self.streams)
        except (RuntimeError, MemoryError):
            self.streams.release()
            raise
        return True

    def _begin_upgrade(self, connection: Connection) -> None:
        """Let the thread that serves `connection` leave the pool. There is room: that was reserved.

        :raises RuntimeError: no thread can be started in its place.
        """
        for thread in [each for each in self.threads if each.connection is connection]:
            self._leave(thread, connection, self.upgrades)

    def _leave(self, thread: RequestThread, connection: Connection, lasting: LastingRequests) -> None:
        self._add_thread()
        with self._loop.lock:
            if thread.connection is not connection:
                return  # the request has ended; a thread of the application that has its socket came too late
            self.threads.remove(thread)
            thread.left_to = lasting
            lasting.add(thread)
            if self.leader is thread:
                self._promote_instead_of(connection)

    def promote_if_leader_is_busy(self) -> None:
        """Promote a follower if the leader has been inside one request for too long."""
        self.alarm.clear()
        with self._loop.lock:
            connection = self.leader.connection if self.leader else None
            if not self.followers:
                return
            if connection is None:
                if self._loop.ready:  # the leader is between two requests, and the next may be long
                    self.alarm.set()
                return
            if time.monotonic() - connection.clock.began >= PROMOTE_AFTER:
                self._promote_instead_of(connection)
            else:
                self.alarm.set()

    def _run(self, thread: RequestThread, is_there: threading.Event) -> None:
        with self._loop.lock:
            self.threads.append(thread)  # before it can lead: a request that lasts is looked for here
            self.followers += 1
        is_there.set()
        while not (self.is_drained or self.is_broken or thread.left_to):
            try:
                self._promotions.get()
                if self._become_leader(thread):
                    self._lead(thread)
            except BaseException as error:  # noqa: BLE001 (no error ends the thread)
                if self._worker.is_child:
                    self._worker.fork_hooks.end_child(error)
                self._recover(thread)
        if thread.left_to is not None:
            thread.left_to.remove(thread)
        self._worker.wake_supervisor()

    def _become_leader(self, thread: RequestThread) -> bool:
        """Become the leader, unless there is one already; return whether this thread is the leader."""
        with self._loop.lock:
            if self.leader is not None:
                return False
            self.leader = thread
            thread.is_follower = False
            self.followers -= 1
            return True

    def _become_follower(self, thread: RequestThread) -> None:
        if not thread.is_follower and not thread.left_to:
            thread.is_follower = True
            self.followers += 1

    def _recover(self, thread: RequestThread) -> None:
        """Recover from an unexpected error: close the connection, and make sure that there is a leader.

        It need not be an error of ours: a library's time limit (PyThreadState_SetAsyncExc) may strike after the view
        has returned.
        """
        self._log.exception("Unexpected error in the worker's loop")
        with self._loop.lock:
            connection, thread.connection = thread.connection, None
            if connection is not None:
                self._count_ended()
                self._loop.close(connection)
            cannot_go_on = self._worker.fails_often()
            self._become_follower(thread)
            if self.leader is thread:
                self.leader = None
            if cannot_go_on:
                self.is_broken = True
                self._worker.give_up()
        self.ensure_leader()

    def ensure_leader(self) -> None:
        """Promote a follower if there is no leader: an error may have interrupted a promotion."""
        with self._loop.lock:
            if self.leader is None and self.followers:
                self._promotions.put(None)

    def _lead(self, thread: RequestThread) -> None:
        """Poll and serve, until another thread is the leader or the drain is complete."""
        loop, worker = self._loop, self._worker
        while True:
            if not worker.alive and worker.continue_drain():
                self.is_drained = True
                return
            loop.poll(HEARTBEAT if worker.alive else DRAIN_POLL)
            if loop.ready:
                self.alarm.set()
            for _ in range(len(loop.ready)):
                if not worker.alive and not worker.carrier.has_begun:
                    break  # the drain has just begun: first hand over connections of which nothing has been read
                connection = loop.next_ready()
                if connection is not None and not self._serve(thread, connection):
                    return

    def _serve(self, thread: RequestThread, connection: Connection) -> bool:
        """Serve `connection`; return whether this thread is the leader afterwards."""
        had_begun = connection.has_next_request
        if had_begun:
            self._loop.without_thread.discard(connection)
        connection.begin_turn()
        thread.connection = connection
        self._turns_begun += 1
        self.count_in_flight()
        if self._mean_seconds > PROMOTE_AFTER and self.followers:
            with self._loop.lock:
                if self.leader is thread:  # else a follower has already been promoted
                    self._promote_instead_of(connection)
        while True:
            outcome = self._cycle.take_turn(connection)
            with self._loop.lock:
                is_leader = self.leader is thread
                has_next = outcome is Outcome.KEEP and connection.next_request is NextRequest.UNPARSED
                may_stay = not is_leader and not thread.left_to and not self._worker.carrier.is_carrying
                if has_next and connection.unsent is None and may_stay:
                    connection.clock.restart()
                    continue  # the request has already been read, so the epoll would not report it
                thread.connection = None
                thread.reported = False
                self._count_ended()
                self._note_duration(connection, outcome)
                try:
                    self._cycle.end_turn(connection, outcome, is_first_turn=not had_begun)
                except Exception:  # noqa: BLE001 (any error closes this connection only)
                    self._loop.close_after_error(connection)
                if thread.left_to:
                    self._loop.wake()
                elif not is_leader:
                    self.alarm.set()  # the leader may be inside a long request
                    is_leader = self._replace_busy_leader(thread)
                    if not is_leader:
                        self._become_follower(thread)
                return is_leader

    def count_in_flight(self) -> None:
        """Publish how many requests are in flight. Called each second, too, as the loop may end some."""
        self._fields[_IN_FLIGHT] = self._turns_begun - self._turns_ended + len(self._loop.without_thread)

    def _count_ended(self) -> None:
        self._turns_ended += 1
        self.count_in_flight()
        self._fields[_REQUESTS] = self._worker.nr

    def _note_duration(self, connection: Connection, outcome: Outcome) -> None:
        if outcome is Outcome.KEEP:
            seconds = time.monotonic() - connection.clock.began
            self._mean_seconds += (min(seconds, SMOOTHING * PROMOTE_AFTER) - self._mean_seconds) / SMOOTHING

    def _promote_instead_of(self, connection: Connection) -> None:
        """Promote a follower while the leader is busy with `connection`."""
        if self.followers:
            self._loop.unregister(connection)
            self.promote_follower()

    def promote_follower(self) -> None:
        """Wake a follower, which becomes the leader. Called with the loop's lock."""
        self.leader = None
        self._promotions.put(None)

    def _replace_busy_leader(self, thread: RequestThread) -> bool:
        """Become the leader if the leader is inside a request that is, or usually is, long; return whether we did."""
        connection = self.leader.connection if self.leader else None
        if connection is None:
            return False
        if self._mean_seconds <= PROMOTE_AFTER and time.monotonic() - connection.clock.began < PROMOTE_AFTER:
            return False
        self._loop.unregister(connection)
        self.leader = thread
        return True
