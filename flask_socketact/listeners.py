"""systemd's listeners as gunicorn's sockets, and settings that contradict them."""

from __future__ import annotations

import os
from typing import Any

from gunicorn import sock, util
from gunicorn.config import Config
from gunicorn.glogging import Logger

from flask_socketact import activation
from flask_socketact.errors import ActivationError


def take(names: dict[int, str], cfg: Config, log: Logger) -> list[Any]:
    """Return gunicorn's sockets on the descriptors in `names`, with the name as their attribute ``fdname``.

    :raises ActivationError: the settings ask for descriptors by number, too.
    """
    if any(isinstance(address, int) for address in cfg.address):
        raise ActivationError(
            f"bind = {cfg.settings['bind'].get()} takes a descriptor by its number, but systemd passes "
            f"{activation.LISTEN_FDS}={len(names)}: remove fd:// from the settings and the command line"
        )
    listeners: list[Any] = sock.create_sockets(cfg, log, list(names))
    for listener, name in zip(listeners, names.values(), strict=True):
        listener.fdname = name
    return listeners


def keep(listeners: list[Any], cfg: Config, log: Logger) -> None:
    """Report settings that contradict `listeners`, and make the settings agree.

    gunicorn leaves ``bind`` unread when descriptors were passed but, when a reload changes
    it, closes what systemd passed; and with ``reuse_port`` it binds once more in every worker.
    """
    bind = cfg.settings["bind"]
    for address in bind.get() if bind.get() != bind.default else ():
        if not any(_same(util.parse_address(address), listener.getsockname()) for listener in listeners):
            log.warning(
                "bind = %s is ignored, systemd passes %s: change ListenStream= in the .socket unit, or remove bind",
                address,
                describe(listeners),
            )
    if cfg.reuse_port:
        log.warning("reuse_port is ignored: systemd has bound the port, see ReusePort= in systemd.socket(5)")
    cfg.set("bind", [_bind(listener.getsockname()) for listener in listeners])
    cfg.set("reuse_port", False)


def describe(listeners: list[Any]) -> str:
    """Return addresses and names, as ``http://127.0.0.1:8000 (app.socket)``."""
    return ", ".join(
        f"{listener} ({listener.fdname})" if hasattr(listener, "fdname") else str(listener) for listener in listeners
    )


def _same(wanted: Any, found: Any) -> bool:
    """Whether the parsed ``bind`` address `wanted` is the socket's address `found`."""
    if not isinstance(wanted, tuple) or not isinstance(found, tuple):
        return bool(wanted == found)
    host, port = wanted
    numeric = util.is_ipv6(host) or host.replace(".", "").isdigit()
    return port == found[1] and (host == found[0] or not numeric)


def _bind(address: Any) -> str:
    """Return a socket's address in the form of gunicorn's ``bind``."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if util.is_ipv6(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return "unix:" + (os.fsdecode(address).replace("\0", "@"))
