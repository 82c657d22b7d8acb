"""The application: each request notes that it was executed, then works for as long as its client says.

script/chaos writes it to the machine, with the number of the release.
"""

from __future__ import annotations

import os
import time

from flask import Flask, request

RELEASE = "0"

app = Flask(__name__)


@app.route("/c/<name>", methods=["GET", "POST"])
def execute(name: str) -> str:
    length = len(request.get_data())
    # One write with O_APPEND: lines of several processes do not mix, and what was written survives a SIGKILL.
    log = os.open("/var/lib/app/executed", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, f"{name} {os.getpid()}\n".encode())
    finally:
        os.close(log)
    time.sleep(int(request.args.get("ms", "0")) / 1000)
    return f"{name} {os.getpid()} {RELEASE} {length}"
