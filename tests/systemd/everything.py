"""An application that uses the whole Flask extension; test_application runs it in its machine."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from flask import Blueprint, Flask, request

from flask_socketact import SocketAct

STATE = Path(os.environ["STATE_DIRECTORY"])
FOR_ADMIN = "what is for the administrator alone"

app = Flask(__name__)
app.config.update(
    SOCKETACT_HEALTH_LISTENER="admin",
    SOCKETACT_DETAILS_LISTENER="admin",
    SOCKETACT_CHECK_CACHE=0.5,
    SOCKETACT_METRICS="/metrics",
    SOCKETACT_METRICS_LISTENER="admin",
    SOCKETACT_DEADLINE=20.0,
    SOCKETACT_REQUEST_ID="X-Request-Id",
)
socketact = SocketAct(app)
admin = socketact.only("admin")(Blueprint("admin", __name__, url_prefix="/admin"))
inventory = socketact.breaker("inventory", fail_max=3, fallback=lambda: "unknown")


@socketact.check("file")
def file() -> bool:
    return not (STATE / "fail").exists()


@inventory
def stock() -> str:
    raise ConnectionError("there is none")


@app.get("/")
def hello() -> str:
    return f"{os.getpid()} {socketact.request_id}"


@app.get("/sleep/<float:seconds>")
@socketact.deadline(None)
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return f"slept {seconds} s\n"


@app.get("/stock")
def show_stock() -> str:
    return stock()


@app.get("/error")
def error() -> str:
    raise RuntimeError("a slip")


@app.post("/work/<name>")
def work(name: str) -> str:
    """Work for some seconds, or until a file is there."""
    seconds = float(request.args["seconds"])

    def send() -> None:
        with socketact.hold(name):
            (STATE / f"{name}-begun").touch()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not (STATE / f"{name}-may-end").exists():
                time.sleep(0.05)
            (STATE / f"{name}-sent").touch()

    threading.Thread(target=send).start()
    return "accepted\n"


@app.post("/shared")
def shared() -> str:
    return "public"


@app.get("/shared")
@socketact.only("admin")
def shared_secret() -> str:
    return FOR_ADMIN


@admin.route("/", methods=["GET", "POST", "DELETE"])
@admin.route("/users/<path:name>", methods=["GET", "PUT"])
def users(name: str = "") -> tuple[str, dict[str, str]]:
    return FOR_ADMIN, {"X-Users": name.encode().hex()}


app.register_blueprint(admin)
