"""``flask-socketact lb``: set or show the share of the requests that HAProxy sends to a service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flask_socketact.cli.exit_status import Command
from flask_socketact.cli.lb import agent, state
from flask_socketact.cli.options import Seconds, name_argument, parse_percent, user_manager_option
from flask_socketact.errors import NotBegunError
from flask_socketact.systemd.manager import Manager

if TYPE_CHECKING:
    from flask_socketact.cli.lb.agent import Agent

_SECONDS = Seconds(1_000_000)
_WEIGHTS = {"drain": state.DRAINED, "ready": state.READY}
#: Longest time for ``--wait``, in seconds.
_TIMEOUT = 60
_PERCENT = "write lb NAME weight 10%"


def _parse_percent(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_percent(value, state.READY)
    except ValueError as error:
        raise click.BadParameter(f"{error}; for none, write drain") from None


@click.command(
    cls=Command,
    epilog="Exit status: 0 done; 1 the service is drained, but still has requests after --timeout; 3"
    " nothing was changed: there is no such service, it has no agent, or you are not root.",
)
@name_argument
@click.argument("verb", type=click.Choice([*_WEIGHTS, "weight"]), required=False, metavar="[drain|ready|weight]")
@click.argument("percent", callback=_parse_percent, required=False, metavar="[PERCENT]")
@user_manager_option
@click.option("--for", "seconds", metavar="SECONDS", type=_SECONDS, help="Be ready again after this time.")
@click.option("--wait", is_flag=True, help="With drain: wait until no request is in flight.")
@click.option("--timeout", metavar="SECONDS", type=_SECONDS, help=f"Longest time for --wait.  [default: {_TIMEOUT}]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def lb(name: str, verb: str | None, percent: int | None, *, user_manager: bool, as_json: bool, **how: Any) -> None:
    """Take a service out of HAProxy, and put it back.

    With drain, HAProxy sends no new requests to the service NAME; with weight 10%, a tenth of its share; with ready,
    all of it. HAProxy hears that with its next agent-check. It holds until the next command, --for is over, or the
    machine boots again. Without a verb, show what HAProxy is told; for that you need not be root.

    The service needs an agent, which the command units makes. Its server in HAProxy needs agent-check, agent-port, and
    weight 100.
    """
    _check_usage(verb, percent, **how)
    manager = Manager(user=user_manager)
    found = agent.find(name, manager)
    if verb is not None:
        weight = _WEIGHTS[verb] if percent is None else percent
        _set(found, weight, how["seconds"], manager, _waiter(found, manager, as_json=as_json, **how))
    _show(found, manager, as_json=as_json)


def _check_usage(verb: str | None, percent: int | None, **how: Any) -> None:
    if verb == "weight" and percent is None:
        raise click.UsageError(f"weight needs a percentage: {_PERCENT}")
    if verb != "weight" and percent is not None:
        raise click.UsageError(f"{verb} takes no percentage: {_PERCENT}")
    if how["seconds"] is not None and verb in (None, "ready"):
        raise click.UsageError("--for needs drain or weight")
    if how["wait"] and verb != "drain":
        raise click.UsageError("--wait needs drain")
    if how["timeout"] is not None and not how["wait"]:
        raise click.UsageError("--timeout needs --wait")


def _waiter(found: Agent, manager: Manager, *, as_json: bool, **how: Any) -> Callable[[], None]:
    """Return a function that waits as the options say.

    :raises NotBegunError: it could not wait. Nothing was changed.
    """
    if not how["wait"]:
        return lambda: None
    from flask_socketact.cli.lb import drained

    drained.check(found.name, manager)
    say: Callable[[str], None] = (lambda _line: None) if as_json else click.echo
    return lambda: drained.wait(found.name, manager, how["timeout"] or _TIMEOUT, say)


def _set(found: Agent, weight: int, seconds: int | None, manager: Manager, wait: Callable[[], None]) -> None:
    if not found.is_listening and weight != state.READY:
        remedy = agent.remedy(found, user=manager.user)
        raise NotBegunError(f"{found.unit} is not active, so HAProxy would not hear of it: {remedy}")
    state.write(found.name, weight, seconds=seconds, user_manager=manager.user)
    wait()


def _show(found: Agent, manager: Manager, *, as_json: bool) -> None:
    share = state.read(found.name, user_manager=manager.user)
    if as_json:
        shown = {
            "service": f"{found.name}.service",
            "state": share.state,
            "weight": share.weight,
            "expires_in": share.expires_in,
            "addresses": found.addresses,
            "is_listening": found.is_listening,
            "asked": found.asked,
        }
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(f"{found.name}: {share}")
    where = ", ".join(found.addresses)
    if not found.is_listening:
        remedy = agent.remedy(found, user=manager.user)
        click.echo(f"Warning: {found.unit} is not active, so HAProxy cannot ask {where}: {remedy}", err=True)
    elif not found.asked:
        click.echo(f"Warning: HAProxy has not asked {where} yet: see agent-check and agent-port there", err=True)
