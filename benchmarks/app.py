"""The application of the benchmarks: a trivial view, and one that waits."""

from __future__ import annotations

import time

from flask import Flask

app = Flask(__name__)

WAIT = 0.05  #: seconds


@app.get("/")
def hello() -> str:
    return "Hello\n"


@app.get("/wait")
def wait() -> str:
    time.sleep(WAIT)
    return "waited\n"
