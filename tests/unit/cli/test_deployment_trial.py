"""The units of a trial: what is copied from the service, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_socketact.cli.deploy import trial_unit
from flask_socketact.cli.deploy.trial_unit import Listener, Move, Place, Plan
from flask_socketact.errors import UntriedError
from flask_socketact.systemd.unit import Unit

PLACE = Place("flask-socketact-trial-0", Path("/run/systemd/system"), Path("/run"))
PLAN = Plan(PLACE, [Listener("http", 2), Listener("a%d", 1)], [Move("/srv/current", "/srv/42")], ["BindPaths=x"], 9.0)
FRAGMENT = """[Unit]
Requires=app@a-b.socket
OnFailure=alarm.service
SuccessAction=reboot
[Service]
User=app
ExecStartPre=/usr/local/lib/flask-socketact/relay start-pre %n
ExecStartPre=-/srv/current/bin/prepare --to=/srv/current --not=/srv/current-2,/x/srv/current
ExecStart=/usr/bin/gunicorn -w 4 \\
  # a comment
  app:app
ExecStopPost=/bin/alarm
Sockets=other.socket
PIDFile=/run/app.pid
FailureAction=reboot-force
RuntimeDirectory=%p-run
StateDirectory=%p/%i
Environment=A=%n,%N,%I,%f,%%n,%h B=%t/app-run/x C=/run/app-runner
[Install]
WantedBy=multi-user.target
"""


def rendered(tmp_path: Path, fragment: str = FRAGMENT, **properties: str) -> dict[str, str]:
    path, drop_in = tmp_path / "app@.service", tmp_path / "10-more.conf"
    path.write_text(fragment)
    drop_in.write_text("[Service]\nRestart=always\nEnvironment=D=/srv/current\n")
    found = {"FragmentPath": str(path), "DropInPaths": str(drop_in), "RuntimeDirectory": "app-run"} | properties
    return trial_unit.render(Unit("app@a-b.service", {key: (value,) for key, value in found.items()}), PLAN)


def test_the_service_is_copied_without_what_is_its_own(tmp_path: Path) -> None:
    texts = rendered(tmp_path)
    assert texts.pop("flask-socketact-trial-0.service").splitlines()[1:] == [
        "[Service]",
        "User=app",
        "ExecStartPre=-/srv/42/bin/prepare --to=/srv/42 --not=/srv/current-2,/x/srv/current",
        "StateDirectory=app/a-b",
        "Environment=A=app@a-b.service,app@a-b,a/b,/a/b,%%n,%h B=/run/flask-socketact-trial-0/x C=/run/app-runner",
    ]
    copied = texts.pop("flask-socketact-trial-0.service.d/10-more.conf").splitlines()[1:]
    assert copied == ["[Service]", "Restart=always", "Environment=D=/srv/42"]
    last = texts.pop("flask-socketact-trial-0.service.d/~trial.conf")
    options = "--workers=1 --pid=/run/flask-socketact-trial-0/trial.pid"
    assert {
        f"ExecStart=/usr/bin/gunicorn -w 4  app:app {options}",
        *("Restart=no", "RuntimeMaxSec=9", "RuntimeDirectory=flask-socketact-trial-0", "BindPaths=x"),
        "Sockets=flask-socketact-trial-0-0.socket flask-socketact-trial-0-1.socket",
    } <= set(last.splitlines())
    assert not any(word in last for word in ("alarm", "reboot", "app@a-b.socket"))
    sockets = "".join(texts[name] for name in sorted(texts)).splitlines()
    listens = [line.partition("=")[2] for line in sockets if line.startswith("ListenStream=")]
    assert listens == trial_unit.addresses(PLACE, PLAN.listeners)
    assert {"FileDescriptorName=http", "FileDescriptorName=a%%d", "SocketMode=0600"} <= set(sockets)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/srv/start", "/srv/start"),
        ("-/usr/bin/python3 -m gunicorn app", "-/usr/bin/python3 -m gunicorn app --workers=1"),
        ("/bin/old\nExecStart=\nExecStart=@/x/gunicorn g", "@/x/gunicorn g --workers=1"),
    ],
)
def test_options_are_for_gunicorn_only(tmp_path: Path, command: str, expected: str) -> None:
    texts = rendered(tmp_path, f"[Service]\nExecStart={command}\n")
    line = next(line for line in "".join(texts.values()).splitlines() if line.startswith("ExecStart="))
    assert line.partition(" --pid=")[0] == f"ExecStart={expected}"


def test_what_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(UntriedError, match="has 2 lines ExecStart="):
        rendered(tmp_path, "[Service]\nExecStart=/a\nExecStart=/b\n")
    with pytest.raises(UntriedError, match="No such file"):
        rendered(tmp_path, DropInPaths=str(tmp_path / "gone.conf"))
    with pytest.raises(UntriedError, match="has no file"):
        rendered(tmp_path, FragmentPath="")
    for path in ("/srv/a b", "/srv/%n", '/srv/"', "/srv/a\nUser=root", "/srv/a:b", "/srv/$x", "/srv/a\n", "srv"):
        assert not trial_unit.is_safe(path)
    assert trial_unit.is_safe("/srv/app/releases/2026-01-01_12.30+b1")
    for properties, why in (
        ({"Type": "forking"}, "Type=forking"),
        ({"Type": "notify", "NeedDaemonReload": "yes"}, "run systemctl daemon-reload"),
        ({"Type": "notify", "Environment": "SOCKETACT_OVERLAP=no"}, "must not run at the same time"),
    ):
        with pytest.raises(UntriedError, match=why):
            trial_unit.check(Unit("app.service", {key: (value,) for key, value in properties.items()}))
