"""The health of a new generation: it is ready, its pages respond, and its share of errors has not grown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from flask_socketact.cli.deploy.service import Counts, Response, Service
from flask_socketact.errors import UnhealthyError

READYZ = "/readyz"
#: Time between two looks, in seconds.
INTERVAL = 0.5
#: With fewer errors than this, their rate does not count.
FEWEST_ERRORS = 3
#: A canary that has had fewer responses is inconclusive. If three requests of ten fail, the errors among 20 are enough
#: for a verdict with a probability of 96%. More would take a quiet site longer than the timeout.
FEWEST_RESPONSES = 20
#: With fewer requests than this, the old generation's rate of errors is no measure for the new one.
FEWEST_REQUESTS = 50


@dataclass(frozen=True)
class Health:
    """What a new generation must fulfill."""

    pages: Sequence[str]  #: paths that must not respond with 5xx, unless they did before
    seconds: float  #: of good health without a break
    max_errors: float  #: share of responses that may be 5xx, or what the old generation allows, if that is higher
    responses: int = 0  #: fewest responses to others than the deploy, or the verdict is inconclusive


@dataclass(frozen=True)
class Baseline:
    """The health of the old generation."""

    responded: bool  #: it responded at all, or did not run
    good_pages: Sequence[str]  #: of ``Health.pages``
    readyz: Sequence[str]  #: addresses that respond at /readyz; empty if unknown
    counts: Counts


def baseline(service: Service, health: Health) -> Baseline:
    """Measure the health of the service before anything is changed. A service that does not run is not started."""
    if not service.is_active:
        return Baseline(responded=True, good_pages=health.pages, readyz=(), counts=Counts())
    ready = {address: service.request(READYZ, [address]) for address in service.addresses}
    having = [address for address, answer in ready.items() if answer.status is not None and not answer.is_missing]
    pages = {path: service.request(path) for path in health.pages}
    responded = bool(having) or any(page.status is not None for page in pages.values())
    good = [path for path, page in pages.items() if page.is_good]
    return Baseline(responded, good, having, service.counts())


def wait(service: Service, health: Health, before: Baseline, deadline: float) -> Counts:
    """Wait until the service has been healthy for `health.seconds`; return the requests of others in that time.

    :param deadline: CLOCK_MONOTONIC, seconds
    :raises UnhealthyError: it had too many errors, was stopped, was not healthy by the deadline, or had too few
        requests by then.
    """
    healthy_since, own = None, service.own_requests
    while True:
        problem = _find_problem(service, health, before, own)
        now = time.monotonic()
        healthy_since = None if problem else healthy_since or now
        is_healthy = healthy_since is not None and now - healthy_since >= health.seconds
        judged = _of_others(service, own)
        if is_healthy and judged.requests >= health.responses:
            return judged
        if now > deadline:
            raise UnhealthyError(problem or _why_not(health, judged, is_healthy=is_healthy))
        time.sleep(INTERVAL)


def _why_not(health: Health, judged: Counts, *, is_healthy: bool) -> str:
    """Return why a service without a problem at the deadline has not passed."""
    if not is_healthy:
        return f"it was not healthy for {health.seconds:g} s in a row before the timeout"
    return (
        f"inconclusive: clients got {judged.requests} responses before the timeout, and {health.responses} are needed: "
        "set a larger --canary or a longer --timeout, or deploy without --canary"
    )


def describe_watch(health: Health) -> str:
    """Return for how long the service is watched."""
    enough = f", and until clients have got {health.responses} responses" if health.responses else ""
    return f"watching for {health.seconds:g} s{enough}"


def describe(judged: Counts) -> str:
    """Return on how many responses a good verdict rests."""
    if not judged.requests:
        return "Healthy, but no requests came: only the pages were judged"
    several = "" if judged.requests == 1 else "s"
    return f"Healthy: {judged.requests} response{several} judged, {judged.errors} with a status of 5xx"


def _find_problem(service: Service, health: Health, before: Baseline, own: Counts) -> str:
    """Return what is wrong at this moment; empty if nothing is.

    :param own: our requests before the watch. Later ones do not count: /readyz may respond with 503 for a while.
    :raises UnhealthyError: waiting longer does not help.
    """
    if service.is_stopped:
        raise UnhealthyError("the service was stopped")
    if not service.is_active:
        return "the service is no longer active"
    _check_errors(_of_others(service, own), health, before)  # first: a page may take seconds
    if (bad := bad_page(service, before)) is not None:
        return bad.text
    if before.readyz and not (readyz := service.request(READYZ, before.readyz)).is_good:
        return readyz.text
    return ""


def _of_others(service: Service, own: Counts) -> Counts:
    return service.counts().without(service.own_requests.without(own))


def bad_page(service: Service, before: Baseline, addresses: Sequence[str] = ()) -> Response | None:
    """Request the pages that were good before; return the first bad response, or None.

    :param addresses: of the service if empty
    """
    responses = (service.request(path, addresses) for path in before.good_pages)
    return next((response for response in responses if not response.is_good), None)


def _check_errors(now: Counts, health: Health, before: Baseline) -> None:
    limit = max(health.max_errors, _tolerance(before.counts))
    if now.errors >= FEWEST_ERRORS and now.rate > limit:
        raise UnhealthyError(
            f"{now.errors} of {now.requests} responses had a status of 5xx ({now.rate:.1%}; "
            f"{before.counts.rate:.1%} before, at most {limit:.1%} allowed)"
        )


def _tolerance(before: Counts) -> float:
    """Return which share of errors the old generation allows the new one: twice its own, or halfway from there to 1. A
    few requests allow nothing: one error in one request would allow any number."""
    if before.requests < FEWEST_REQUESTS:
        return 0.0
    return min(2 * before.rate, (1 + before.rate) / 2)
