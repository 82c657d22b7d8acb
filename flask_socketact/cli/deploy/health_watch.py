"""Whether a new generation is well: it is ready, its pages are answered, and not more of its answers are errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from flask_socketact.cli.deploy.service import Counts, Service
from flask_socketact.errors import UnhealthyError

READYZ = "/readyz"
#: Between two looks, in seconds.
INTERVAL = 0.5
#: Fewer errors than this are no rate.
FEWEST_ERRORS = 3


@dataclass(frozen=True)
class Health:
    """What is asked of a new generation."""

    page: str  #: is not to be answered with 500 or above, unless it was before
    seconds: float  #: for which everything must be well, without a break
    max_errors: float  #: part of the answers that may be errors, or twice as many as before, if that is more


@dataclass(frozen=True)
class Baseline:
    """What the generation before did."""

    answered: bool  #: anything at all; or it did not run
    page_was_good: bool
    readyz: Sequence[str]  #: listeners that have /readyz; none if that is not known, or there is none
    counts: Counts


def baseline(service: Service, health: Health) -> Baseline:
    """Look at the service before anything is changed; one that does not run is not started by it."""
    if not service.is_active:
        return Baseline(answered=True, page_was_good=True, readyz=(), counts=Counts())
    ready = {address: service.ask(READYZ, [address]) for address in service.addresses}
    having = [address for address, answer in ready.items() if answer.status is not None and not answer.is_missing]
    page = service.ask(health.page)
    return Baseline(page.status is not None or bool(having), page.is_good, having, service.counts())


def wait(service: Service, health: Health, before: Baseline, deadline: float) -> None:
    """Wait until the service has been well for long enough.

    :raises UnhealthyError: too many errors; it was stopped; or it has not been until the deadline (CLOCK_MONOTONIC,
        seconds).
    """
    well_since, asked = None, service.asked
    while True:
        wrong = _what_is_wrong(service, health, before, asked)
        now = time.monotonic()
        well_since = None if wrong else well_since or now
        if well_since is not None and now - well_since >= health.seconds:
            return
        if now > deadline:
            raise UnhealthyError(wrong or f"it was not well for {health.seconds:g} s in a row before its time was over")
        time.sleep(INTERVAL)


def _what_is_wrong(service: Service, health: Health, before: Baseline, asked: Counts) -> str:
    """Return what is wrong at this moment, empty if nothing is. What we ourselves ask since we had `asked` so much does
    not count: /readyz, answered with 503 for a while, would be errors.

    :raises UnhealthyError: what is wrong will not mend itself.
    """
    if service.is_stopped:
        raise UnhealthyError("the service was stopped")
    if not service.is_active:
        return "the service is not active any more"
    page = service.ask(health.page)
    _count_errors(service.counts().without(service.asked.without(asked)), health, before)
    if before.page_was_good and not page.is_good:
        return page.text
    if before.readyz and not (readyz := service.ask(READYZ, before.readyz)).is_good:
        return readyz.text
    return ""


def _count_errors(now: Counts, health: Health, before: Baseline) -> None:
    limit = max(health.max_errors, 2 * before.counts.rate)
    if now.errors >= FEWEST_ERRORS and now.rate > limit:
        raise UnhealthyError(
            f"{now.errors} of {now.requests} requests were answered with 500 or above ({now.rate:.1%}; "
            f"{before.counts.rate:.1%} before, and at most {limit:.1%} allowed)"
        )
