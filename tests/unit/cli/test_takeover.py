"""What ``units --from`` reads of a command line, and of unit files."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from flask_socketact.cli.units import takeover
from flask_socketact.cli.units.application import application
from flask_socketact.cli.units.existing import Existing, Line, parse
from flask_socketact.cli.units.served import read
from flask_socketact.cli.units.takeover import plan
from flask_socketact.errors import OptionError, UnitError

GUNICORN = "/srv/shop/venv/bin/gunicorn"


def existing(
    *lines: Line, folder: Path = Path("/nowhere"), command: str = f"{GUNICORN} shop:app", **given: Any
) -> Existing:
    values: dict[str, Any] = {
        "name": "shop",
        "files": (folder / "shop.service",),
        "lines": lines,
        "user": "nobody",
        "group": "",
        "directory": str(folder),
        "is_dynamic": False,
        "command": tuple(command.split()),
        "environment": {},
        "env_files": (),
        "write": (),
        "sockets": {},
    }
    return Existing(**values | given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.service").write_text("[Service]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("/v/bin/gunicorn shop:app", {"app": "shop:app", "python": "/v/bin/python3", "bind": ["127.0.0.1:8000"]}),
        ("/v/bin/gunicorn shop:app", {"workers": 1, "threads": 1, "others": [], "config": None}),
        (
            "/v/bin/python -m gunicorn -w 3 --threads 2 shop:app",
            {"python": "/v/bin/python", "workers": 3, "threads": 2},
        ),
        (
            "/usr/bin/env gunicorn -b :80 -b unix:/run/x.sock shop:app",
            {"python": None, "bind": [":80", "unix:/run/x.sock"]},
        ),
        ("/v/bin/gunicorn --graceful-timeout 60 --daemon -p /run/pid shop:app", {"drain": 60, "others": []}),
        (
            "/v/bin/gunicorn --timeout 90 --preload --log-level debug shop:app",
            {"others": ["--log-level", "debug", "--preload", "--timeout", "90"]},
        ),
        ("/v/bin/gunicorn -k gthread shop:app", {"threads": None, "others": []}),
        (
            "/v/bin/gunicorn -k gevent shop:app",
            {"others": ["--worker-class", "flask_socketact.workers.gevent.GeventWorker"]},
        ),
        ("/v/bin/gunicorn --chdir /srv/b shop:app", {"directory": "/srv/b"}),
        (
            "/v/bin/flask --app shop run --host 0.0.0.0 -p 81",
            {"app": "shop:app", "bind": ["0.0.0.0:81"], "workers": None},
        ),
    ],
)
def test_command_lines(command: str, found: dict[str, Any]) -> None:
    served = read(tuple(command.split()), {}, "/nowhere")
    assert {name: getattr(served, name) for name in found} == found


def test_a_shell_and_the_environment() -> None:
    line = "exec /v/bin/gunicorn --log-level debug 'shop:create_app(\"x\")'"
    environment = {"GUNICORN_CMD_ARGS": "--timeout 5", "WEB_CONCURRENCY": "4", "PORT": "81"}
    served = read(("/bin/sh", "-c", line), environment, "/nowhere")
    assert (served.app, served.bind, served.workers) == ('shop:create_app("x")', ["0.0.0.0:81"], None)
    assert served.others == ["--log-level", "debug", "--timeout", "5"]


def test_the_configuration_file_is_not_run(tmp_path: Path) -> None:
    """Root would run it."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import os\nos.mkdir('ran')\nbind = ['0.0.0.0:81', 'unix:/run/a.sock']\nworkers = os.cpu_count()\n"
        "worker_class = 'gthread'\nwsgi_app = 'shop:app'\n"
    )
    served = read((GUNICORN,), {}, str(tmp_path))
    assert (served.app, served.config, served.workers, served.threads) == ("shop:app", "gunicorn.conf.py", None, None)
    assert served.bind == ["0.0.0.0:81", "unix:/run/a.sock"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["/usr/bin/uwsgi --ini x", "/bin/sh -c", "/v/bin/gunicorn --no-such-option a:b"])
def test_a_command_that_cannot_be_read(command: str, folder: Path) -> None:
    with pytest.raises(UnitError):
        plan(existing(folder=folder, command=command), is_app_known=False)
    assert "app" not in plan(existing(folder=folder, command=command), is_app_known=True).options


def test_addresses(folder: Path) -> None:
    binds = "-b localhost:8000 -b [::1]:81 -b *:82 -b unix:///run/a/b.sock -b 10.0.0.1"
    listen = plan(existing(folder=folder, command=f"{GUNICORN} {binds} shop:app"), is_app_known=False).options["listen"]
    assert listen == ("127.0.0.1:8000", "[::1]:81", "82", "/run/a/b.sock", "10.0.0.1:8000")
    held = {"shop.socket": ("0.0.0.0:80",)}
    assert plan(existing(folder=folder, sockets=held), is_app_known=False).options["listen"] == ("0.0.0.0:80",)


def test_lines_of_unit_files() -> None:
    text = (
        "# a comment\n[Unit]\nAfter=a.service \\\n# another\n   b.service\n\n[Service]\n; x\nEnvironment=\nNice = 5\n"
    )
    assert parse(text) == [
        Line("Unit", "After", "a.service  b.service"),
        Line("Service", "Environment", ""),
        Line("Service", "Nice", "5"),
    ]


def test_what_is_copied_and_what_is_told(folder: Path) -> None:
    move = plan(
        existing(
            Line("Unit", "After", "postgresql.service shop.socket"),
            Line("Service", "MemoryMax", "1G"),
            Line("Service", "RootDirectory", "/jail"),
            Line("Service", "Type", "simple"),
            Line("Install", "WantedBy", "graphical.target"),
            folder=folder,
            sockets={"shop.socket": ("80",)},
            command=f"{GUNICORN} --access-logformat %(h)s\\'\"$1 shop:app",
        ),
        is_app_known=False,
    )
    assert move.others.splitlines()[1:] == [
        "[Unit]",
        "After=postgresql.service",
        "",
        "[Service]",
        "MemoryMax=1G",
        "UMask=0022",
        r'''Environment="GUNICORN_CMD_ARGS=--access-logformat '%%(h)s\\'\\''\"$1'"''',
    ]
    told = [remark for remark in move.remarks if "was not taken over" in remark]
    assert [remark.partition(" was")[0] for remark in told] == [
        "[Service] RootDirectory=/jail",
        "[Install] WantedBy=graphical.target",
    ]


@pytest.mark.parametrize(
    ("given", "told"), [({"user": ""}, "runs as root: add --user"), ({"is_dynamic": True, "user": ""}, "DynamicUser")]
)
def test_a_service_without_a_user(folder: Path, given: dict[str, Any], told: str) -> None:
    move = plan(existing(folder=folder, **given), is_app_known=False)
    with pytest.raises(OptionError, match=told):
        move.check({"user": None, "user_manager": False}, set())


def test_what_the_user_owns_may_be_written(folder: Path) -> None:
    own = plan(existing(folder=folder, user="root"), is_app_known=False)
    assert str(folder) in own.options["write"]
    assert any(f"root may write to {folder}" in remark for remark in own.remarks)
    strict = existing(Line("Service", "ProtectSystem", "strict"), folder=folder, user="root", write=("-/srv/data",))
    assert plan(strict, is_app_known=False).options["write"] == ("/srv/data",)


@pytest.mark.parametrize(
    "text",
    ["import os\nbind = f'127.0.0.1:{os.getuid()}'\n", "if True:\n    bind = '127.0.0.1:1'\n", "bind: str = str(1)\n"],
)
def test_an_address_that_is_computed_must_be_typed(folder: Path, text: str) -> None:
    (folder / "gunicorn.conf.py").write_text(text)
    move = plan(existing(folder=folder), is_app_known=False)
    with pytest.raises(OptionError, match="computes its bind: add --listen"):
        move.check({"user": "nobody", "user_manager": False}, set())
    move.check({"user": "nobody", "user_manager": False}, {"listen"})


def test_names_in_functions_of_the_configuration_are_not_settings(folder: Path) -> None:
    (folder / "conf.py").write_text("def f():\n    bind = '1.2.3.4:1'\nworkers: int = 3\ngraceful_timeout = 90\n")
    options = plan(existing(folder=folder, command=f"{GUNICORN} -c python:conf app:app"), is_app_known=False).options
    assert (options["listen"], options["config"], options["drain"]) == (("127.0.0.1:8000",), "conf.py", 90)
    assert "workers" not in options


def test_a_relative_socket_and_what_may_connect_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_PROXIES", ("no-such-group", "daemon"))
    for umask, group in (("", "daemon"), ("-m 007", None)):
        move = plan(existing(folder=folder, command=f"{GUNICORN} {umask} -b unix:a.sock app"), is_app_known=False)
        assert move.options["listen"] == (f"{folder}/a.sock",)
        assert move.options["app"] == "app:application"
        assert move.options.get("socket_group") == group
        assert any("was open to all users" in remark for remark in move.remarks) is bool(group)


@pytest.mark.parametrize("line", ["gunicorn a:b >>log 2>&1", "gunicorn a:b | cat", "x=1; gunicorn a:b", "gunicorn $A"])
def test_a_line_for_a_shell_that_does_more(line: str) -> None:
    with pytest.raises(UnitError, match=r"ExecStart= (is a line for a shell|has the variable)"):
        read(("/bin/sh", "-c", line), {}, "/nowhere")


def test_a_folder_that_a_shell_changes_to() -> None:
    served = read(("/bin/sh", "-c", "cd src && exec /v/bin/gunicorn a:b"), {}, "/srv/shop")
    assert (served.directory, served.python) == ("/srv/shop/src", "/v/bin/python3")


def test_a_line_that_resets_others_resets_none_of_ours(folder: Path) -> None:
    lines = [Line("Service", "Environment", value) for value in ("A=1", "", "B=2")]
    assert plan(existing(*lines, folder=folder), is_app_known=False).others.splitlines()[1:] == [
        "[Service]",
        "Environment=B=2",
        "UMask=0022",
    ]


def test_folders_in_the_applications_that_the_user_may_write(folder: Path) -> None:
    for name, mode in (("uploads", 0o755), ("shared", 0o770), ("code", 0o755), ("open", 0o777)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    uid, gid = pwd.getpwnam("nobody")[2:4]
    os.chown(folder / "uploads", uid, gid)
    os.chown(folder / "shared", 0, gid)
    written = plan(existing(folder=folder), is_app_known=False).options["write"]
    assert set(written) == {f"{folder}/uploads", f"{folder}/shared"}


UWSGI = """
; a comment
[other]
module = wrong:app
[uwsgi]
base = /srv/%n
chdir = %(base)
wsgi-file = web/wsgi.py
callable=app
socket = /run/%n/app.sock
chmod-socket = 660
processes = 3
processes = 4
threads = 2
virtualenv = %(base)/venv
uid = nobody
gid = daemon
env = COLOR=50% blue
env = SECOND=2
harakiri = 60
max-requests = 1000
master
vacuum = true
static-map = /static=/srv/shop/static
"""


def test_the_ini_file_of_uwsgi(tmp_path: Path) -> None:
    """A key may be repeated, or have no value, and ``%(base)`` is the value of another key."""
    (tmp_path / "shop.ini").write_text(UWSGI)
    served = read(("/usr/bin/uwsgi", "--ini", str(tmp_path / "shop.ini")), {}, "/")
    assert (served.app, served.directory, served.python) == ("web.wsgi:app", "/srv/shop", "/srv/shop/venv/bin/python3")
    assert (served.bind, served.workers, served.threads) == (["unix:/run/shop/app.sock"], 4, 2)
    assert (served.user, served.group, served.umask) == ("nobody", "daemon", 0o117)
    assert served.variables == ["COLOR=50% blue", "SECOND=2"]
    assert served.others == ["--timeout", "60", "--max-requests", "1000"]
    proxy, static = served.remarks
    assert "proxy_pass" in proxy
    assert static.startswith("static-map = /static=/srv/shop/static of uWSGI was not taken over")


def test_a_service_of_uwsgi(folder: Path) -> None:
    """Root starts it, and it changes to another user by itself."""
    (folder / "shop.ini").write_text(UWSGI)
    move = plan(existing(folder=folder, user="", command=f"/usr/bin/uwsgi {folder}/shop.ini"), is_app_known=False)
    assert (move.options["user"], move.options["group"]) == ("nobody", "daemon")
    assert move.options["listen"] == ("/run/shop/app.sock",)
    assert move.others.splitlines()[1:] == [
        "[Service]",
        "UMask=0022",
        'Environment="COLOR=50%% blue"',
        'Environment="SECOND=2"',
        'Environment="GUNICORN_CMD_ARGS=--timeout 60 --max-requests 1000"',
    ]


@pytest.mark.parametrize(
    ("command", "app", "bind", "told"),
    [
        ("/v/bin/uwsgi --http-socket :9090 --module=a:b -p 2 --master", "a:b", [":9090"], []),
        ("/v/bin/uwsgi --http 127.0.0.1:80 -w a", "a:application", ["127.0.0.1:80"], []),
        ("/v/bin/uwsgi --http-socket :9090 --wsgi-file /other/a.py", None, [":9090"], ["wsgi-file"]),
        ("/v/bin/uwsgi --http-socket :1 -w a --emperor /etc/vassals", "a:application", [":1"], ["emperor"]),
    ],
)
def test_options_of_uwsgi(command: str, app: str | None, bind: list[str], told: list[str]) -> None:
    served = read(tuple(command.split()), {}, "/srv")
    assert (served.app, served.bind, served.python) == (app, bind, "/v/bin/python3")
    assert [remark.split()[0] for remark in served.remarks] == told


def test_an_ini_file_that_includes_itself(folder: Path) -> None:
    (folder / "a.ini").write_text("[uwsgi]\nini = a.ini\n")
    with pytest.raises(UnitError, match="includes itself"):
        plan(existing(folder=folder, command="/v/bin/uwsgi a.ini"), is_app_known=False)


@pytest.mark.parametrize("user", ["nobody", str(pwd.getpwnam("nobody").pw_uid)])
def test_a_user_may_be_a_number(folder: Path, user: str) -> None:
    (folder / "uploads").mkdir()
    os.chown(folder / "uploads", pwd.getpwnam("nobody").pw_uid, -1)
    assert plan(existing(folder=folder, user=user), is_app_known=False).options["write"] == (f"{folder}/uploads",)


def socket_unit(*lines: str) -> dict[str, Any]:
    pairs = [line.partition("=") for line in lines]
    return {
        "sockets": {"shop.socket": ("/run/shop/x.sock",)},
        "socket_lines": {"shop.socket": tuple(Line("Socket", key, value) for key, _, value in pairs)},
    }


def wanted(move: takeover.Takeover, **given: Any) -> Any:
    options: dict[str, Any] = {
        "python": "/v/bin/python3",
        "listen": ("127.0.0.1:8000",),
        "user_manager": False,
        "overlap": True,
    }
    others: dict[str, Any] = dict.fromkeys(("group", "socket_group", "workers", "threads", "drain", "idle_exit"))
    return application(**others | options | move.options | {"systemd_version": 252, "metrics": False} | given)


def test_lines_of_the_socket_unit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_PROXIES", ())
    lines = ("Backlog=64", "SocketUser=john", "SocketGroup=daemon", "SocketMode=0660", "DirectoryMode=0700")
    move = plan(existing(folder=folder, **socket_unit(*lines)), is_app_known=False)
    assert move.options["socket_group"] == "daemon"
    assert move.drop_ins(wanted(move))["shop.socket.d/taken-over.conf"] == (
        "# Taken over from shop.socket.\n[Socket]\nBacklog=64\n"
    )
    told = [note.partition(" was")[0] for note in move.notes(wanted(move)) if "not taken over" in note]
    assert told == ["SocketUser=john", "[Socket] DirectoryMode=0700"]


def test_a_socket_that_was_open_to_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, systemd opens it to all users: then a proxy of another user may connect to it."""
    monkeypatch.setattr(takeover, "_PROXIES", ("daemon",))
    move = plan(existing(folder=folder, **socket_unit()), is_app_known=False)
    assert move.options["socket_group"] == "daemon"
    assert "SocketMode=0666 was not taken over: only the service's user and the group daemon can connect" in "\n".join(
        move.remarks
    )


def test_folders_in_run(folder: Path) -> None:
    """The service gets those in which root opens no sockets."""
    lines = (Line("Service", "RuntimeDirectory", "shop other shop/data"), Line("Service", "UMask", "0022"))
    move = plan(existing(*lines, folder=folder), is_app_known=False)
    (refused,) = [note for note in move.notes(wanted(move)) if "RuntimeDirectory" in note]
    assert refused.startswith("RuntimeDirectory=shop was not taken over: root opens sockets in /run/shop")
    (text,) = move.drop_ins(wanted(move)).values()
    assert text.endswith("[Service]\nUMask=0022\nRuntimeDirectory=other shop/data\n")
    text = move.drop_ins(wanted(move, name="web"))["web.service.d/taken-over.conf"]
    assert text.endswith("\nRuntimeDirectory=shop other shop/data\n")
