"""The application of the benchmarks: a trivial view, one that waits, and one that takes an upload."""

from __future__ import annotations

import time

from flask import Flask, request

app = Flask(__name__)

WAIT = 0.05  #: seconds


@app.get("/")
def hello() -> str:
    return "Hello\n"


@app.get("/wait")
def wait() -> str:
    time.sleep(WAIT)
    return "waited\n"


@app.post("/upload")
def upload() -> str:
    return str(len(request.get_data()))
