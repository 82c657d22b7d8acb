"""Invoices that are sent after the answer, and are not lost: by a thread of each worker, from a queue in SQLite."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from flask import Flask, abort
from outbox import Outbox

from flask_socketact import SocketAct
from flask_socketact.signals import drain_begun, generation_ready

#: Where the unit lets the service write.
STATE = Path(os.environ.get("STATE_DIRECTORY", "."))
#: How often the queue is looked at when it was empty, in seconds.
PAUSE = 0.2

app = Flask(__name__)
socketact = SocketAct(app)
outbox = Outbox(STATE / "outbox.db", lease=float(os.environ.get("LEASE", "30")))
leaving = threading.Event()


@app.post("/invoices/<customer>")
def add(customer: str) -> tuple[dict[str, int], int]:
    """When the client has this answer, the task is on the disk."""
    return {"id": outbox.add("invoice", customer)}, 202


@app.get("/invoices")
def count() -> dict[str, int]:
    counts: dict[str, int] = outbox.counts()
    return counts


@app.get("/invoices/<int:number>")
def show(number: int) -> dict[str, bool]:
    done = outbox.is_done(number)
    if done is None:
        abort(404)
    return {"sent": done}


def send(customer: str, number: int) -> None:
    """What takes its time, and may happen twice: the customer's side knows the number."""
    time.sleep(float(os.environ.get("SECONDS", "0.1")))
    with (STATE / "sent").open("a") as file:
        file.write(f"{number} {customer}\n")


def work() -> None:
    """Send invoices, until the worker drains. One that has begun is ended: the drain waits for it."""
    while True:
        # Held from before the look at `leaving`: otherwise the drain could end between that and the hold.
        with socketact.hold("send-invoice"):
            if leaving.is_set():
                return
            idle = not send_next()
        if idle:
            leaving.wait(PAUSE)


def send_next() -> bool:
    """Send the next invoice, and return whether there was one."""
    try:
        task = outbox.take()
        if task is not None:
            with outbox.working(task):
                send(task.payload, task.id)
    except Exception:  # a full disk, too, may have room later: nobody would start the thread again
        app.logger.exception("An invoice could not be sent: it is tried again later")
        return False
    return task is not None


@generation_ready.connect_via(app)
def start(_: Flask) -> None:
    """Begin in the worker, when the release has proved that it boots; not at import, which a release that does not
    boot may get to, too."""
    threading.Thread(target=work, name="invoices", daemon=True).start()


@drain_begun.connect_via(app)
def stop(_: Flask) -> None:
    """Leave what is in the queue to the next generation."""
    leaving.set()
