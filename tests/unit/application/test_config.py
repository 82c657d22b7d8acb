"""The configuration keys: a bad value is an error at once, whose text says what to write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from flask_socketact import SocketAct


def configured(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    SocketAct(app)
    return app


def test_defaults_are_added_to_the_configuration() -> None:
    keys = {key for key in configured().config if key.startswith("SOCKETACT_")}
    assert keys == {
        *("SOCKETACT_HEALTHZ", "SOCKETACT_READYZ", "SOCKETACT_HEALTH_LISTENER", "SOCKETACT_CHECK_CACHE"),
        *("SOCKETACT_DETAILS_LISTENER", "SOCKETACT_DETAILS_NETWORKS", "SOCKETACT_METRICS"),
        *("SOCKETACT_METRICS_LISTENER", "SOCKETACT_DEADLINE", "SOCKETACT_REQUEST_ID", "SOCKETACT_LISTENER"),
    }


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        *(
            ("SOCKETACT_HEALTHZ", path, "give a path that begins with '/'")
            for path in ("healthz", "", 8, False, "/<n>")
        ),
        ("SOCKETACT_METRICS", "metrics", "give a path that begins with '/'"),
        ("SOCKETACT_HEALTH_LISTENER", 7, "give the FileDescriptorName= of a listener, a list of them, or None"),
        ("SOCKETACT_METRICS_LISTENER", ["admin", None], "give the FileDescriptorName= of a listener"),
        ("SOCKETACT_METRICS_LISTENER", "a:b", "give the FileDescriptorName= of a listener"),
        ("SOCKETACT_DETAILS_NETWORKS", "10.0.0.0/8", r"give a list like \['10.0.0.0/8', '::1'\]"),
        ("SOCKETACT_DETAILS_NETWORKS", ["10.0.0.1/8"], r"has host bits set; give a list like"),
        ("SOCKETACT_CHECK_CACHE", -1, "give a positive number of seconds"),
        ("SOCKETACT_DEADLINE", -2.0, "give a positive number of seconds, or None for no deadline"),
        ("SOCKETACT_DEADLINE", True, "give a positive number of seconds, or None for no deadline"),
        ("SOCKETACT_DEADLINE", "2", "give a positive number of seconds, or None for no deadline"),
        ("SOCKETACT_DEADLINE", float("inf"), "give a positive number of seconds"),
        ("SOCKETACT_REQUEST_ID", "X Request", "give the name of a header, like 'X-Request-Id', or None"),
        ("SOCKETACT_REQUEST_ID", "X\r\nY", "give the name of a header, like 'X-Request-Id', or None"),
        ("SOCKETACT_LISTENER", ["admin"], "give the name of one listener, or None"),
    ],
)
def test_value_that_cannot_be_used(key: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} is .*: .*{sentence}"):
        configured(**{key: value})


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("SOCKETACT_HEALTH", "is not a key of this extension: did you mean SOCKETACT_HEALTHZ?"),
        ("SOCKETACT_QQQQQQQQQQQQQQQQ", "is not a key of this extension: the keys are SOCKETACT_HEALTHZ, "),
        ("SOCKETACT_IDLE_EXIT", "set it with Environment=SOCKETACT_IDLE_EXIT=... in the service unit"),
    ],
)
def test_unknown_key(key: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=key) as error:
        configured(**{key: 1})
    assert sentence in str(error.value)


def test_same_path_twice() -> None:
    with pytest.raises(ValueError, match="SOCKETACT_HEALTHZ and SOCKETACT_READYZ are both '/health'"):
        configured(SOCKETACT_HEALTHZ="/health", SOCKETACT_READYZ="/health")


def test_all_endpoints_switched_off() -> None:
    app = configured(SOCKETACT_HEALTHZ=None, SOCKETACT_READYZ=None)
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == {"static"}


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_of_checks_holds_and_breakers(name: object) -> None:
    socketact = SocketAct()
    makers: tuple[Callable[[str], object], ...] = (socketact.check, socketact.hold, socketact.breaker)
    for make in makers:
        with pytest.raises(ValueError, match="give"):
            make(name)  # type: ignore[arg-type]


def test_numbers_out_of_range() -> None:
    socketact = SocketAct()
    with pytest.raises(ValueError, match=r"deadline\(\) is -2: give a positive number of seconds"):
        socketact.deadline(-2)
    with pytest.raises(ValueError, match=r"check\('a'\): timeout is 0: give a positive number of seconds"):
        socketact.check("a", timeout=0)
    with pytest.raises(ValueError, match="fail_max is 0: give a number of failures, at least 1"):
        socketact.breaker("a", fail_max=0)
    with pytest.raises(ValueError, match="reset_timeout is None: give a positive number of seconds"):
        socketact.breaker("a", reset_timeout=None)  # type: ignore[arg-type]
