"""The application of the benchmarks: views of the kinds that services have."""

from __future__ import annotations

import time

from flask import Flask, render_template_string, request

app = Flask(__name__)

WAIT = 0.05  #: seconds
PAGE = """<!doctype html><title>Rows</title><table>
{% for name, number in rows %}<tr><td>{{ name }}</td><td>{{ number }}</td></tr>
{% endfor %}</table>"""
ROWS = [(f"row <{number}>", number) for number in range(20)]


@app.get("/")
def hello() -> str:
    return "Hello\n"


@app.get("/wait")
def wait() -> str:
    time.sleep(WAIT)
    return "waited\n"


@app.get("/api/items/<int:number>")
def item(number: int) -> dict[str, object]:
    """A response of an API, for a client that a proxy tells."""
    return {"number": number, "page": request.args.get("page", 1, int), "client": request.headers.get("X-Real-IP", "")}


@app.get("/page")
def page() -> str:
    return render_template_string(PAGE, rows=ROWS)


@app.post("/upload")
def upload() -> str:
    return str(len(request.get_data()))
