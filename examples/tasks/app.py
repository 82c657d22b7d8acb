"""Send invoices after the response, and lose none: a thread of each worker takes them from a queue in SQLite."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from flask import Flask, abort
from outbox import Outbox

from flask_socketact import SocketAct
from flask_socketact.signals import drain_begun, generation_ready

#: The folder to which the service may write (StateDirectory= of the unit).
STATE = Path(os.environ.get("STATE_DIRECTORY", "."))
#: Seconds between two reads of an empty queue.
PAUSE = 0.2

app = Flask(__name__)
socketact = SocketAct(app)
outbox = Outbox(STATE / "outbox.db", lease=float(os.environ.get("LEASE", "30")))
draining = threading.Event()


@app.post("/invoices/<customer>")
def add(customer: str) -> tuple[dict[str, int], int]:
    """Add a task. When the client gets this response, the task is on disk."""
    return {"id": outbox.add("invoice", customer)}, 202


@app.get("/invoices")
def count() -> dict[str, int]:
    """Return the number of tasks in each state."""
    counts: dict[str, int] = outbox.counts()
    return counts


@app.get("/invoices/<int:number>")
def show(number: int) -> dict[str, bool]:
    """Return whether an invoice has been sent."""
    done = outbox.is_done(number)
    if done is None:
        abort(404)
    return {"sent": done}


def send(customer: str, number: int) -> None:
    """Send an invoice. It takes time, and may happen twice: the customer recognizes the number."""
    time.sleep(float(os.environ.get("SECONDS", "0.1")))
    with (STATE / "sent").open("a") as file:
        file.write(f"{number} {customer}\n")


def work() -> None:
    """Send invoices until the worker drains. The drain waits for the current invoice."""
    while True:
        # The hold includes the check of `draining`: otherwise the drain could end between the check and the hold.
        with socketact.hold("send-invoice"):
            if draining.is_set():
                return
            idle = not send_next()
        if idle:
            draining.wait(PAUSE)


def send_next() -> bool:
    """Send the next invoice, and return whether there was one."""
    try:
        task = outbox.take()
        if task is not None:
            with outbox.working(task):
                send(task.payload, task.id)
    except Exception:  # without this, a full disk would end the thread for good
        app.logger.exception("An invoice could not be sent. It will be tried again")
        return False
    return task is not None


@generation_ready.connect_via(app)
def start(_: Flask) -> None:
    """Start the thread when all workers serve. At import it would be too early: the release may still fail to load."""
    threading.Thread(target=work, name="invoices", daemon=True).start()


@drain_begun.connect_via(app)
def stop(_: Flask) -> None:
    """Leave the other tasks to the next generation."""
    draining.set()
