"""systemd's listeners as gunicorn's sockets, and settings that contradict them."""

from __future__ import annotations

import socket
from typing import Any

from gunicorn import sock, util
from gunicorn.config import Config
from gunicorn.glogging import Logger

from flask_socketact import addresses
from flask_socketact.errors import ActivationError, SettingsError
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.systemd import activation


def take(names: dict[int, str], cfg: Config, log: Logger) -> tuple[list[Any], Mailbox | None]:
    """Return gunicorn's sockets on the descriptors in `names`, each with its name as attribute ``fdname``; and the
    mailbox, if there is one.

    :raises ActivationError: there are two mailboxes, or there is no listener for HTTP.
    :raises SettingsError: ``bind`` names a descriptor by its number.
    """
    mailboxes = [fd for fd in names if activation.is_mailbox(fd)]
    if len(mailboxes) > 1:
        raise ActivationError(
            f"descriptors {mailboxes[0]} and {mailboxes[1]} are both mailboxes: keep one ListenSequentialPacket="
        )
    if len(mailboxes) == len(names):
        raise ActivationError(
            f"descriptor {mailboxes[0]} (FileDescriptorName={names[mailboxes[0]]}) is a mailbox "
            "(ListenSequentialPacket=), and there is no listener for HTTP: add ListenStream= to the socket unit, then "
            "stop and start socket unit and service, as systemd opens an address when its unit starts"
        )
    if any(isinstance(address, int) for address in cfg.address):
        raise SettingsError(
            f"bind = {cfg.settings['bind'].get()} names a descriptor by its number, but systemd passes "
            f"{activation.LISTEN_FDS}={len(names)}: remove fd:// from the settings and the command line"
        )
    _ignore_reuse_port(cfg, log)  # first, or gunicorn sets it on systemd's sockets, where it would stay
    streams = {fd: name for fd, name in names.items() if fd not in mailboxes}
    listeners: list[Any] = sock.create_sockets(cfg, log, list(streams))
    for listener, name in zip(listeners, streams.values(), strict=True):
        listener.fdname = name
    return listeners, Mailbox(socket.socket(fileno=mailboxes[0])) if mailboxes else None


def create_mailbox(log: Logger) -> Mailbox | None:
    """Return a mailbox for a service to which systemd has given none: its workers hand connections over to each other,
    and in a reload."""
    try:
        return Mailbox.create()
    except OSError as error:
        log.warning("Workers cannot hand connections over to each other: no mailbox (%s)", error.strerror)
        return None


def keep(listeners: list[Any], cfg: Config, log: Logger) -> None:
    """Warn of settings that contradict `listeners`, and set them to what the listeners are.

    gunicorn ignores ``bind`` when descriptors were passed; but when a reload changes it, gunicorn closes the listeners
    from systemd. With ``reuse_port`` it binds again in each worker.
    """
    for address in _explicit_bind(cfg):
        if not any(_same(util.parse_address(address), listener.getsockname()) for listener in listeners):
            log.warning(
                "bind = %s is ignored, as systemd passes %s: change ListenStream= in the socket unit, or remove bind",
                address,
                describe(listeners),
            )
    cfg.set("bind", [_bind(listener.getsockname()) for listener in listeners])
    _ignore_reuse_port(cfg, log)


def describe(listeners: list[Any]) -> str:
    """Return addresses and names, as ``http://127.0.0.1:8000 (http)``."""
    return ", ".join(map(_describe, listeners))


def _describe(listener: Any) -> str:
    address = listener.getsockname()
    text = str(listener) if isinstance(address, tuple) else _bind(address)
    return f"{text} ({listener.fdname})" if hasattr(listener, "fdname") else text


def _explicit_bind(cfg: Config) -> list[str]:
    """Return the addresses that the configuration or the command line sets.

    gunicorn does not tell its default from the same address in a configuration file.
    """
    bind = cfg.settings["bind"]
    if bind.get() != bind.default:
        return list(bind.get())
    parser = cfg.parser()
    typed = (parser.parse_known_args()[0], parser.parse_known_args(cfg.get_cmd_args_from_env())[0])
    return [address for arguments in typed for address in arguments.bind or ()]


def _ignore_reuse_port(cfg: Config, log: Logger) -> None:
    if cfg.reuse_port:
        log.warning("reuse_port is ignored: systemd has bound the port, see ReusePort= in systemd.socket(5)")
        cfg.set("reuse_port", False)


def _same(wanted: Any, found: Any) -> bool:
    """Whether the parsed ``bind`` address `wanted` is the address `found` of a socket."""
    if not isinstance(wanted, tuple):
        return f"unix:{wanted}" == _bind(found)
    if not isinstance(found, tuple):
        return False
    try:
        hosts = {info[4][0] for info in socket.getaddrinfo(*wanted)}
    except OSError:
        return False
    return found[0] in hosts and found[1] == wanted[1]


def _bind(address: Any) -> str:
    """Return a socket's address in the form of gunicorn's ``bind``."""
    text = addresses.of_socket(address)
    return f"unix:{text}" if addresses.is_unix(text) or not text else text
