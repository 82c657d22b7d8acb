"""nginx in front of the Unix socket, with the configuration from examples/."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.support.http import ask
from tests.support.load import Load
from tests.support.machine import EXAMPLES, Machine, install_debs

if TYPE_CHECKING:
    from collections.abc import Callable


def test_nginx_notices_no_restart(machine: Machine, figure: Callable[[str], None]) -> None:
    install_debs(machine, "/usr/sbin/nginx")
    text = (EXAMPLES / "nginx.conf").read_text().replace("/run/app/", "/run/app-unix/").replace("server_name", "# ")
    machine.path("/etc/nginx/conf.d/app.conf").write_text(text)
    machine.path("/etc/nginx/sites-enabled/default").unlink()
    machine.systemctl("restart", "nginx")
    http = partial(machine.connect, ("127.0.0.1", 80))
    assert ask(http)[0] == 200
    with Load(http) as load:
        for _ in range(3):
            seen = load.requests
            machine.wait_for(lambda seen=seen: load.requests > seen + 50, "responses")  # type: ignore[misc]
            machine.systemctl("restart", "app-unix")
    assert not load.failures(), machine.path("/var/log/nginx/error.log").read_text()
    figure(f"3 restarts, {load.requests} requests, {load.failures().total()} failed")
