"""The health of a new generation: it is ready, its pages respond, and its share of errors has not grown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from flask_socketact.cli.deploy.service import Counts, Service
from flask_socketact.errors import UnhealthyError

READYZ = "/readyz"
#: Time between two looks, in seconds.
INTERVAL = 0.5
#: With fewer errors than this, their rate does not count.
FEWEST_ERRORS = 3


@dataclass(frozen=True)
class Health:
    """What a new generation must fulfill."""

    page: str  #: path that must not respond with 5xx, unless it did before
    seconds: float  #: of good health without a break
    max_errors: float  #: share of responses that may be 5xx, or twice the share before, if that is higher


@dataclass(frozen=True)
class Baseline:
    """The health of the old generation."""

    responded: bool  #: it responded at all, or did not run
    page_was_good: bool
    readyz: Sequence[str]  #: addresses that respond at /readyz; empty if unknown
    counts: Counts


def baseline(service: Service, health: Health) -> Baseline:
    """Measure the health of the service before anything is changed. A service that does not run is not started."""
    if not service.is_active:
        return Baseline(responded=True, page_was_good=True, readyz=(), counts=Counts())
    ready = {address: service.request(READYZ, [address]) for address in service.addresses}
    having = [address for address, answer in ready.items() if answer.status is not None and not answer.is_missing]
    page = service.request(health.page)
    return Baseline(page.status is not None or bool(having), page.is_good, having, service.counts())


def wait(service: Service, health: Health, before: Baseline, deadline: float) -> None:
    """Wait until the service has been healthy for `health.seconds`.

    :param deadline: CLOCK_MONOTONIC, seconds
    :raises UnhealthyError: it had too many errors, was stopped, or was not healthy by the deadline.
    """
    healthy_since, own = None, service.own_requests
    while True:
        problem = _find_problem(service, health, before, own)
        now = time.monotonic()
        healthy_since = None if problem else healthy_since or now
        if healthy_since is not None and now - healthy_since >= health.seconds:
            return
        if now > deadline:
            raise UnhealthyError(problem or f"it was not healthy for {health.seconds:g} s in a row before the timeout")
        time.sleep(INTERVAL)


def _find_problem(service: Service, health: Health, before: Baseline, own: Counts) -> str:
    """Return what is wrong at this moment; empty if nothing is.

    :param own: our requests before the watch. Later ones do not count: /readyz may respond with 503 for a while.
    :raises UnhealthyError: waiting longer does not help.
    """
    if service.is_stopped:
        raise UnhealthyError("the service was stopped")
    if not service.is_active:
        return "the service is no longer active"
    page = service.request(health.page)
    _check_errors(service.counts().without(service.own_requests.without(own)), health, before)
    if before.page_was_good and not page.is_good:
        return page.text
    if before.readyz and not (readyz := service.request(READYZ, before.readyz)).is_good:
        return readyz.text
    return ""


def _check_errors(now: Counts, health: Health, before: Baseline) -> None:
    limit = max(health.max_errors, 2 * before.counts.rate)
    if now.errors >= FEWEST_ERRORS and now.rate > limit:
        raise UnhealthyError(
            f"{now.errors} of {now.requests} responses had a status of 5xx ({now.rate:.1%}; "
            f"{before.counts.rate:.1%} before, at most {limit:.1%} allowed)"
        )
