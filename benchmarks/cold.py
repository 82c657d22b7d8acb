"""Measure the first request after an idle exit: ``python -m benchmarks.cold``.

Boots a systemd of its own, and needs root. The service is the example, with an idle exit.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import click

from tests.support.http import Client
from tests.support.machine import Machine, drop_in, install, interrupt_on_terminate


@click.command()
@click.option("--times", default=20, show_default=True)
@click.option("--tree", default="/", help="Another Debian, made by script/tree.")
def main(times: int, tree: str) -> None:
    """Measure cold and warm requests on this machine."""
    interrupt_on_terminate()
    cold, warm = [], []
    with Machine(tree) as machine:
        install(machine, "app")
        drop_in(machine, "app.service", "[Service]\nEnvironment=SOCKETACT_IDLE_EXIT=1\n")
        for _ in range(times):
            cold.append(ask(machine))
            warm.append(ask(machine))
            machine.wait_for(lambda: machine.show("app", "ActiveState") == "inactive", "the service to exit")
    for name, seconds in (("cold", cold), ("warm", warm)):
        print(f"{name}: median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s, of {times}")


def ask(machine: Machine) -> float:
    """Return the seconds that a request on a new connection takes."""
    client = Client(partial(machine.connect, ("127.0.0.1", 8000)))
    began = time.monotonic()
    client.exchange("GET", "/")
    seconds = time.monotonic() - began
    client.close()
    return seconds


if __name__ == "__main__":
    main()
