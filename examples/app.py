"""An application with the kinds of requests that a restart usually breaks."""

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
    """A short request."""
    return f"Hello from process {os.getpid()}, by listener {socketact.listener}\n"


@app.get("/sleep/<float:seconds>")
def sleep(seconds: float) -> str:
    """A long request."""
    time.sleep(seconds)
    return f"slept {seconds} s\n"


@app.post("/upload")
def upload() -> str:
    """Read the body as it arrives, and answer with its SHA-256."""
    digest = hashlib.sha256()
    while block := request.stream.read(65536):
        digest.update(block)
    return digest.hexdigest() + "\n"


@app.get("/stream/<int:lines>")
def stream(lines: int) -> Iterator[str]:
    """An answer that is sent line by line, ten of them a second."""
    for number in range(lines):
        yield f"{number}\n"
        time.sleep(0.1)
