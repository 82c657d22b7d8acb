"""An example application with the kinds of requests that a restart usually breaks."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from flask import Flask, request

from flask_socketact import SocketAct

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Flask(__name__)
socketact = SocketAct(app)


@app.get("/")
def hello() -> str:
    """Respond at once."""
    return f"Hello from process {os.getpid()}, by listener {socketact.listener}\n"


@app.get("/sleep/<float:seconds>")
def sleep(seconds: float) -> str:
    """Respond after some seconds."""
    time.sleep(seconds)
    return f"slept {seconds} s\n"


@app.post("/upload")
def upload() -> str:
    """Read the content as it arrives, and respond with its SHA-256."""
    digest = hashlib.sha256()
    while block := request.stream.read(65536):
        digest.update(block)
    return digest.hexdigest() + "\n"


@app.get("/stream/<int:lines>")
def stream(lines: int) -> Iterator[str]:
    """Send a response line by line, ten lines a second."""
    for number in range(lines):
        yield f"{number}\n"
        time.sleep(0.1)
