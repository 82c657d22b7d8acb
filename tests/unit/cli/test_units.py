"""``flask-socketact units``: what is rendered, what is refused, and what is written where."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from flask_socketact.cli import main
from flask_socketact.cli.units.render import application, render
from flask_socketact.errors import OptionError

EXAMPLES = Path(__file__).parents[3] / "examples/units"
SERVICE, SOCKET = "/etc/systemd/system/app.service", "/etc/systemd/system/app.socket"
COMMAND = (sys.executable, "-B", "-m", "flask_socketact.cli", "units")

#: The units of an application with one socket.
KINDS = (".service", ".socket", "-relay.service", "-watchdog.path", "-watchdog.service")
PYTHON = "/srv/app/venv/bin/python3"
#: The options of examples/units.
EXAMPLE_OPTIONS = {
    "app": ("--systemd-version", "252", "--python", PYTHON),
    "app-unix": (
        *("--systemd-version", "252", "--python", PYTHON),
        *("--name", "app-unix", "--user", "app", "--directory", "/srv/app"),
        *("--listen", "/run/app-unix/http.sock", "--socket-group", "www-data"),
    ),
}


def units(*options: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["units", *options], env=env)


def rendered(*options: str) -> dict[str, list[str]]:
    """Return the lines of each unit, by the path that it is headed with, without comments."""
    done = units(*(() if "--python" in options else ("--python", PYTHON)), *options)
    assert done.exit_code == 0, done.output
    lines: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith(("# /etc/", "# ~/")):
            lines[line[2:]] = section = []
        elif line and not line.startswith("#"):
            section.append(line)
    return lines


def refusal(*options: str, status: int = 2) -> str:
    """Return the error of a command that prints nothing else."""
    done = units(*options)
    assert done.exit_code == status, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("Error: ").strip()


@pytest.mark.parametrize("name", EXAMPLE_OPTIONS)
def test_examples_are_what_is_rendered(name: str, tmp_path: Path) -> None:
    done = units(*EXAMPLE_OPTIONS[name], "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    files = [name + kind for kind in KINDS]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "relay"])
    for file in files:
        assert (tmp_path / file).read_text() == (EXAMPLES / file).read_text()


def test_documentation_has_the_units_in_full() -> None:
    """When this fails, copy examples/units/app* into docs/units.md."""
    page = (EXAMPLES.parents[1] / "docs/units.md").read_text()
    for unit in (f"app{kind}" for kind in KINDS):
        assert f"# /etc/systemd/system/{unit}\n{(EXAMPLES / unit).read_text()}```" in page


def test_documentation_has_the_units_of_the_agent() -> None:
    """When this fails, copy the last two units that are printed into docs/units.md."""
    page = (EXAMPLES.parents[1] / "docs/units.md").read_text()
    done = units(*EXAMPLE_OPTIONS["app"], "--agent", "10.0.0.5:8001")
    for text in done.stdout.split("# /etc/systemd/system/app-agent")[1:]:
        assert f"# /etc/systemd/system/app-agent{text.rstrip()}\n```" in page


def test_agent() -> None:
    files = rendered("--agent", "127.0.0.1:9000")
    assert list(files)[-2:] == ["/etc/systemd/system/app-agent.socket", "/etc/systemd/system/app-agent@.service"]
    assert {"Wants=app-agent.socket", "Also=app.socket app-agent.socket"} <= set(files[SERVICE])
    socket, answer = list(files.values())[-2:]
    assert {"ListenStream=127.0.0.1:9000", "Accept=yes"} <= set(socket)
    assert "DynamicUser=yes" in answer
    user = list(rendered("--agent", "9000", "--user-manager").values())[-1]
    assert not [line for line in user if line.startswith(("DynamicUser", "CapabilityB"))]
    assert [line for line in user if "<%h/.local/state/flask-socketact/app.share;" in line]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--agent", "/run/a.sock"), "needs TCP"),
        (("--agent", "localhost:8001"), "needs an address, not a name"),
        (("--agent", "10.0.0.5:"), "no port from 1 to 65535"),
        (("--agent", "8000"), "collides with --listen 127.0.0.1:8000"),
        (("--agent", "8001", "--listen", "8000", "--listen", "9000=agent"), "choose another name than =agent"),
    ],
)
def test_agents_that_cannot_be_used(options: tuple[str, ...], words: str) -> None:
    assert words in refusal(*options)


@pytest.mark.parametrize(
    "options", [(), ("--user-manager",), ("--agent", "8001"), ("--listen", "/a=x", "--listen", "1=y", "--group", "g")]
)
def test_layout(options: tuple[str, ...]) -> None:
    """No line is too long, none is blank twice, and no traces of the template are left."""
    text = units(*options).stdout
    assert max(map(len, text.splitlines())) <= 120
    assert "\n\n\n" not in text
    assert not any(line != line.strip() for line in text.splitlines())


def test_listeners_are_grouped_by_name() -> None:
    listeners = ("127.0.0.1:80=web", "/run/a.sock=local", "81=web", "[2001:DB8:0::1]:82", "/run/b.sock=local")
    files = rendered(*(part for listener in listeners for part in ("--listen", listener)))
    folder = "/etc/systemd/system"
    assert list(files) == [
        f"{folder}/app.service",
        f"{folder}/app.socket",
        f"{folder}/app-local.socket",
        f"{folder}/app-http.socket",
        *(f"{folder}/app{kind}" for kind in KINDS[2:]),
    ]
    addresses = [[line for line in lines if line.startswith("ListenS")] for lines in files.values()]
    assert addresses == [
        [],
        ["ListenStream=127.0.0.1:80", "ListenStream=81", "ListenSequentialPacket=/run/app/mailbox"],
        ["ListenStream=/run/a.sock", "ListenStream=/run/b.sock"],
        ["ListenStream=[2001:db8::1]:82"],
        [],
        [],
        [],
    ]
    names = [line for lines in files.values() for line in lines if line.startswith("FileDescriptorName=")]
    assert names == [f"FileDescriptorName={name}" for name in ("web", "local", "http")]
    assert ["Service=app.service" in lines for lines in list(files.values())[:4]] == [False, False, True, True]
    sockets = "app.socket app-local.socket app-http.socket"
    expected = {f"Requires={sockets}", f"After={sockets} network.target", f"Also={sockets}"}
    assert expected <= set(files[SERVICE])


def test_user_manager() -> None:
    files = rendered("--user-manager", "--listen", "8000", "--listen", "/run/user/1000/app/http.sock=local")
    folder = "~/.config/systemd/user"
    assert list(files) == [f"{folder}/app{unit}" for unit in (".service", ".socket", "-local.socket", "-relay.service")]
    service, socket, local, relay = files.values()
    assert "ExecStop=-%h/.local/lib/flask-socketact/relay --user stop app.service" in relay
    assert "WantedBy=default.target" in service
    assert "ListenSequentialPacket=%t/app/mailbox" in socket
    others = ("User=", "Group=", "Socket", "Protect", "Private", "CapabilityB", "StateD", "JoinsN")
    assert not [line for line in (*service, *socket, *local, *relay) if line.startswith(others)]


def test_the_python_that_runs_the_command_is_the_default() -> None:
    assert f"ExecStart={Path(sys.executable).parent}/gunicorn -c" in units().stdout


def test_what_the_application_may_write_and_reads() -> None:
    paths = ("--write", "/srv/app/uploads", "--write", "/var/log/app", "--env-file", "/etc/app.env")
    service = rendered(*paths)[SERVICE]
    assert {"ReadWritePaths=/srv/app/uploads", "ReadWritePaths=/var/log/app"} <= set(service)
    assert {"EnvironmentFile=/etc/app.env", "ProtectHome=yes"} <= set(service)
    assert "ProtectHome=read-only" in rendered("--write", "/home/dev/.cache")[SERVICE]
    assert "--write has no effect with --user-manager" in refusal("--user-manager", "--write", "/srv")


@pytest.mark.parametrize("given", ["gunicorn.conf.py", "/etc/shop/settings.py"])
def test_the_applications_own_configuration_is_used(tmp_path: Path, given: str) -> None:
    """gunicorn's default file, if it is there; or the one that the option names."""
    (tmp_path / "gunicorn.conf.py").touch()
    options = () if given == "gunicorn.conf.py" else ("--config", given)
    service = rendered("--directory", str(tmp_path), *options)[SERVICE]
    assert f"Environment=SOCKETACT_CONFIG={given}" in service
    assert f"ExecStart={Path(PYTHON).parent}/gunicorn -c python:flask_socketact.conf app:app" in service


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--app", "web:create_app('prod',debug=False)", "--user", "shop", "--group", "www", "--directory", "/opt/shop"),
        ("--listen", "8000", "--listen", "/run/x.sock=admin", "--socket-group", "www-data", "--workers", "3"),
        ("--no-overlap", "--metrics", "--threads", "2", "--drain", "60", "--idle-exit", "600"),
        ("--write", "/srv/a", "--write", "/srv/b", "--env-file", "/etc/a.env", "--config", "conf/gunicorn.py"),
    ],
)
def test_units_are_made_again_with_the_options_as_before(tmp_path: Path, options: tuple[str, ...]) -> None:
    home_ = home(tmp_path)
    first = ("--user-manager", "--name", "web", "--python", PYTHON)
    private = ("--user", "--group", "--socket-group", "--write")
    kept = [word for i, word in enumerate(options) if not {word, options[i - 1] if i else ""} & set(private)]
    assert units(*first, *kept, "--install", env=home_).exit_code == 0
    unit = tmp_path / ".config/systemd/user/web.service"
    before = unit.read_text()
    unit.write_text(before.replace("RestartSec=2", "RestartSec=3"))
    done = units("--again", "web", "--user-manager", env=home_)
    assert done.exit_code == 0, done.output
    assert unit.read_text() == before
    changed = units("--again", "web", "--user-manager", "--workers", "7", "--overlap", env=home_)
    assert changed.exit_code == 0, changed.output
    assert "--workers 7" in unit.read_text()
    assert "SOCKETACT_OVERLAP=no" not in unit.read_text()


def test_units_that_cannot_be_made_again(tmp_path: Path) -> None:
    again = ("--again", "web", "--user-manager")
    assert "web.service: make it with --name web --install" in refused(home(tmp_path), *again)
    unit = tmp_path / ".config/systemd/user/web.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    environment = {"HOME": str(tmp_path)}
    assert "was not made by flask-socketact: take it over with --from web.service" in refused(environment, *again)
    unit.write_text("# Made by flask-socketact units. Installed as x, beside web.socket\n")
    assert "was made by an earlier version" in refused(environment, *again)
    assert "--again and --remove exclude each other" in units("--again", "a", "--remove", "a").stderr
    assert "'a/b' is not the name of a service" in units("--again", "a/b").stderr


def refused(env: dict[str, str], *options: str) -> str:
    done = units(*options, env=env)
    assert done.exit_code == 3, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("options", "gunicorn", "timeout", "watchdog"),
    [
        ((), "app:app", 75, 60),
        (
            ("--workers", "3", "--threads", "8", "--drain", "1"),
            "--workers 3 --threads 8 --graceful-timeout 1 app:app",
            17,
            60,
        ),
        (("--drain", "300", "--app", "a.b_2:create_app()"), "--graceful-timeout 300 a.b_2:create_app()", 615, 600),
    ],
)
def test_numbers(options: tuple[str, ...], gunicorn: str, timeout: int, watchdog: int) -> None:
    service = rendered(*options)[SERVICE]
    assert f"ExecStart=/srv/app/venv/bin/gunicorn -c python:flask_socketact.conf {gunicorn}" in service
    assert f"TimeoutStopSec={timeout}" in service
    assert f"WatchdogSec={watchdog}" in service


def test_arguments_of_a_factory() -> None:
    """Literals, without spaces; systemd takes single quotes between double ones as they are."""
    service = rendered("--app", 'web:create_app("prod", debug = False, ratio=-1.5)')[SERVICE]
    command = "/srv/app/venv/bin/gunicorn -c python:flask_socketact.conf"
    assert f"ExecStart={command} \"web:create_app('prod',debug=False,ratio=-1.5)\"" in service


def test_configuration_of_the_application_is_used(tmp_path: Path) -> None:
    (tmp_path / "flask_socketact.conf").touch()
    service = rendered("--directory", str(tmp_path), "--python", "/opt/py/bin/python3.13")[SERVICE]
    assert f"WorkingDirectory={tmp_path}" in service
    assert "ExecStart=/opt/py/bin/gunicorn -c flask_socketact.conf app:app" in service


@pytest.mark.parametrize(
    ("options", "protected"),
    [
        ((), "yes"),
        (("--directory", "/homes/app", "--python", "/rooted/python3"), "yes"),
        (("--directory", "/home/app"), "read-only"),
        (("--python", "/root/venv/bin/python3"), "read-only"),
        (("--directory", "/run/user/1000/app", "--python", "/usr/bin/python3"), "read-only"),
    ],
)
def test_home_that_is_needed_stays_visible(options: tuple[str, ...], protected: str) -> None:
    assert f"ProtectHome={protected}" in rendered(*options)[SERVICE]


def test_home_behind_a_link_stays_visible(tmp_path: Path) -> None:
    """As in a virtual environment whose Python was installed in a home folder by pyenv or uv."""
    (tmp_path / "python3").symlink_to("/home/somebody/.pyenv/bin/python3")
    assert "ProtectHome=read-only" in rendered("--python", str(tmp_path / "python3"))[SERVICE]


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        (("--listen", "/run/http.sock"), []),
        (("--listen", "/run/http.sock", "--group", "web"), ["SocketGroup=web"]),
        (("--listen", "/run/http.sock", "--group", "web", "--socket-group", "www-data"), ["SocketGroup=www-data"]),
        (("--group", "web"), []),
    ],
)
def test_group_of_paths(options: tuple[str, ...], groups: list[str]) -> None:
    files = rendered(*options)
    assert [line for line in files[SOCKET] if line.startswith("SocketGroup=")] == groups
    assert ("Group=web" in files[SERVICE]) == ("web" in options)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--app", "app", "is not MODULE:OBJECT"),
        ("--app", "app:app\n", "is not MODULE:OBJECT"),
        ("--app", "app:create('x y')", "is not MODULE:OBJECT"),
        ("--app", "app:create('%i')", "is not MODULE:OBJECT"),
        ("--app", "app:create('$HOME')", "is not MODULE:OBJECT"),
        ("--app", "app:create(open('x'))", "is not MODULE:OBJECT"),
        ("--app", "app:create('x", "is not MODULE:OBJECT"),
        ("--app", "app:app.wsgi", "is not MODULE:OBJECT"),
        ("--app", "äpp:app", "is not MODULE:OBJECT"),
        ("--name", "", "is not a name of a unit"),
        ("--name", "app\n", "is not a name of a unit"),
        ("--name", "app\nExecStart=/bin/sh", "is not a name of a unit"),
        ("--name", "../app", "is not a name of a unit"),
        ("--name", "a%n", "is not a name of a unit"),
        ("--name", "a:b", "is not a name of a unit"),
        ("--name", "a" * 65, "up to 64"),
        ("--name", "app.service", "write the name without .service"),
        ("--name", "app.socket", "write the name without .socket"),
        ("--name", "app@1", "has an @"),
        ("--name", "App", "--user 'App' is not an account"),
        ("--user", "root", "must not run as root"),
        ("--user", "0", "must not run as root"),
        ("--user", "00", "is not an account"),
        ("--user", "4294967295", "is not an account"),
        ("--user", "65535", "is not an account"),
        ("--user", "", "is not an account"),
        ("--user", "app\n", "is not an account"),
        ("--user", "a" * 33, "is not an account"),
        ("--group", "a b", "is not an account"),
        ("--directory", "srv/app", "is not a plain absolute path"),
        ("--directory", "/srv/../app", "is not a plain absolute path"),
        ("--directory", "/srv/./app", "is not a plain absolute path"),
        ("--directory", "//srv/app", "is not a plain absolute path"),
        ("--directory", "/srv/app/", "is not a plain absolute path"),
        ("--directory", "/srv/app\n", "is not a plain absolute path"),
        ("--directory", "/srv/a b", "is not a plain absolute path"),
        ("--directory", "/srv/%h", "is not a plain absolute path"),
        ("--python", "/srv/$HOME/python3", "is not a plain absolute path"),
        ("--python", '/srv/"/python3', "is not a plain absolute path"),
        ("--python", "/srv/\\x20/python3", "is not a plain absolute path"),
        ("--listen", "", "has no port"),
        ("--listen", "host:99999", "has no port from 1 to 65535"),
        ("--listen", "127.0.0.1:0", "has no port"),
        ("--listen", "127.0.0.1", "has no port"),
        ("--listen", "127.0.0.1:08000", "has no port"),
        ("--listen", "127.0.0.1:8000\n", "has no port"),
        ("--listen", "127.0.0.1:٨٠", "has no port"),
        ("--listen", "[::1]", "has no port"),
        ("--listen", "٨٠", "has no port"),
        ("--listen", "localhost:8000", "systemd needs an address, not a name"),
        ("--listen", ":8000", "systemd needs an address, not a name"),
        ("--listen", "::1:8000", "systemd needs an address, not a name"),
        ("--listen", "١٢٧.0.0.1:8000", "systemd needs an address, not a name"),
        ("--listen", "127.0.0.256:8000", "systemd needs an address, not a name"),
        ("--listen", "[127.0.0.1]:8000", "systemd needs an address, not a name"),
        ("--listen", "[fe80::1%eth0]:8000", "systemd needs an address, not a name"),
        ("--listen", "8000=", "has no usable name after ="),
        ("--listen", "8000=a:b", "has no usable name after ="),
        ("--listen", "8000=http\n", "has no usable name after ="),
        ("--listen", "8000=../x", "has no usable name after ="),
        ("--listen", "/run/a\nb", "is not a plain absolute path"),
        ("--listen", f"/{'a' * 107}", "is too long"),
        ("--listen", "/run/app/mailbox", "the workers' mailbox"),
        ("--listen", "/run/app", "the workers' mailbox"),
    ],
)
def test_refused(option: str, value: str, told: str) -> None:
    assert told in refusal(option, value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80=a", "127.0.0.1:80=b"),
        ("[::1]:80", "[0:0::0:1]:80"),
        ("80", "[::]:80"),
        ("[::]:80", "0.0.0.0:80"),
        ("80", "127.0.0.1:80"),
        ("[::1]:80", "80=b"),
        ("127.0.0.1:80", "0.0.0.0:80=b"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ("/run/a.sock", "/run/a.sock=b"),
        ("/run/a", "/run/a/b.sock"),
    ],
)
def test_one_address_twice_is_refused(first: str, second: str) -> None:
    assert "collides with another --listen" in refusal("--listen", first, "--listen", second)


@pytest.mark.parametrize(
    "second", ["81", "[::1]:80", "[::]:81", "127.0.0.2:80", "127.0.0.1:800", "/run/80", "[fd00::]:80"]
)
def test_addresses_that_do_not_collide(second: str) -> None:
    assert units("--listen", "127.0.0.1:80", "--listen", second).exit_code == 0


def test_all_ipv4_addresses_do_not_collide_with_ipv6() -> None:
    assert units("--listen", "0.0.0.0:80", "--listen", "[::1]:80").exit_code == 0


@given(
    st.sampled_from(["app", "name", "user", "group", "directory", "python", "listen", "config", "env_files", "write"]),
    st.text(st.sampled_from("a1f0/:[].=@%$\"'`\\ \t\r\n\x85\u2028{}();,~#-_+٣é")),
)
def test_no_special_character_gets_into_a_unit(option: str, value: str) -> None:
    unset = ("user", "group", "directory", "socket_group", "workers", "threads", "drain", "idle_exit")
    wanted: dict[str, Any] = {"app": "app:app", "name": "app", "listen": ("80",), "user_manager": False}
    wanted |= {"systemd_version": 257, "overlap": True, "metrics": False, "python": PYTHON, **dict.fromkeys(unset)}
    wanted[option] = (value,) if option in ("listen", "env_files", "write") else value
    try:
        text = "".join(render(application(**wanted)).values())
    except OptionError as error:
        text = str(error)
        one_line = text.isprintable()
    else:
        one_line = set(value) <= set("a1f0/:[].=@()-_+" + ("'\", " if option == "app" else ""))
    assert one_line, text


@pytest.mark.parametrize("option", ["--user", "--group", "--socket-group"])
def test_accounts_are_refused_with_a_user_manager(option: str) -> None:
    assert f"{option} has no effect with --user-manager" in refusal("--user-manager", option, "web")


def test_the_reload_depends_on_the_version_of_systemd() -> None:
    """sd_notify(3) and systemd.service(5): notify-reload is there from 253 on, and sends the signal itself."""
    relay = "ExecReload=/usr/local/lib/flask-socketact/relay reload %n"
    before = rendered("--systemd-version", "252")[SERVICE]
    assert "Type=notify" in before
    assert [line for line in before if line.startswith("ExecReload=")] == [
        """ExecReload=/bin/sh -c 'kill -HUP "$$1"' sh $MAINPID""",
        relay,
    ]
    for version in ("253", "257"):
        lines = rendered("--systemd-version", version)[SERVICE]
        assert "Type=notify-reload" in lines
        assert [line for line in lines if line.startswith("ExecReload=")] == [relay]


def test_units_are_for_the_running_systemd(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'systemd 255 (255.4-1)'\n")
    (tmp_path / "systemctl").chmod(0o755)
    done = units(env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert "\nType=notify-reload\n" in done.stdout
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho nothing\n")
    assert "\nType=notify\n" in units(env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).stdout


def test_idle_exit() -> None:
    """The service is started by connections, not at boot."""
    lines = rendered("--idle-exit", "300")[SERVICE]
    assert "Environment=SOCKETACT_IDLE_EXIT=300" in lines
    assert not any(line.startswith("WantedBy=") for line in lines)
    assert "Also=app.socket" in lines
    assert not any("IDLE_EXIT" in line for line in rendered()[SERVICE])


def test_group_of_paths_without_a_path() -> None:
    assert "needs a --listen that is a path" in refusal("--socket-group", "www-data")


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"),
        ("--threads", "-1"),
        ("--drain", "0.5"),
        ("--idle-exit", "0"),
        ("--systemd-version", "251"),
        ("--install", "--output", "/"),
    ],
)
def test_what_click_refuses(options: tuple[str, ...]) -> None:
    assert units(*options).exit_code == 2


@pytest.mark.parametrize("option", ["--drain", "--idle-exit"])
@pytest.mark.parametrize("value", ["3h", "90s", "0.5", "1min", ""])
def test_times_are_seconds(option: str, value: str) -> None:
    done = units(option, value)
    assert done.exit_code == 2
    assert "is not a number of seconds: write 10800 for 3h" in done.stderr


def test_a_file_of_others_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "app.socket").write_text("[Socket]\nListenStream=80\n")
    assert "was not made by flask-socketact and was not changed" in refusal("--output", str(tmp_path), status=3)
    assert [path.name for path in tmp_path.iterdir()] == ["app.socket"]
    assert (tmp_path / "app.socket").read_text() == "[Socket]\nListenStream=80\n"


def test_a_masked_unit_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "app.service").symlink_to("/dev/null")
    assert "was not made by flask-socketact and was not changed" in refusal("--output", str(tmp_path), status=3)
    assert (tmp_path / "app.service").is_symlink()


def test_another_program_called_relay_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "relay").write_text("#!/bin/sh\n")
    assert "was not made by flask-socketact" in refusal("--output", str(tmp_path), status=3)
    assert [path.name for path in tmp_path.iterdir()] == ["relay"]


def test_the_socket_unit_of_another_application_is_not_changed(tmp_path: Path) -> None:
    """The listener "unix" of app would have the socket unit of the application app-unix."""
    assert units("--name", "app-unix", "--output", str(tmp_path)).exit_code == 0
    before = (tmp_path / "app-unix.socket").read_text()
    listeners = ("--listen", "80", "--listen", "81=unix")
    assert "belongs to another service" in refusal(*listeners, "--output", str(tmp_path), status=3)
    assert (tmp_path / "app-unix.socket").read_text() == before


@pytest.mark.parametrize(("first", "second"), [("app", "app-relay"), ("app-relay", "app")])
def test_the_relay_of_another_application_is_not_changed(tmp_path: Path, first: str, second: str) -> None:
    assert units("--name", first, "--output", str(tmp_path)).exit_code == 0
    assert "belongs to another service" in refusal("--name", second, "--output", str(tmp_path), status=3)


def test_our_own_files_are_replaced_atomically(tmp_path: Path) -> None:
    """A relay that runs keeps reading the old file; the modes are those that systemd and root need."""
    assert units("--output", str(tmp_path)).exit_code == 0
    old = os.umask(0o077)
    try:
        with (tmp_path / "relay").open() as relay:
            before = relay.read(100)
            (tmp_path / "relay").chmod(0o644)
            assert units("--output", str(tmp_path), "--listen", "9000").exit_code == 0
            assert before + relay.read() == (tmp_path / "relay").read_text()
            assert os.fstat(relay.fileno()).st_nlink == 0
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()}
    assert modes == {"relay": 0o755} | {f"app{kind}": 0o644 for kind in KINDS}
    assert "ListenStream=9000" in (tmp_path / "app.socket").read_text()


@pytest.mark.untraced  # the limit is one for what the tracer writes, too
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The file-size limit fails as a full disk does: there is room for the units, and for half of the relay."""
    assert units("--output", str(tmp_path)).exit_code == 0
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    done = subprocess.run(
        [*COMMAND, "--output", str(tmp_path), "--listen", "9000"],
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (7000, 7000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == f"Error: {tmp_path}/relay cannot be written: File too large\n"
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_writable() -> None:
    assert "/proc/self/app.service cannot be written" in refusal("--output", "/proc/self", status=3)


def test_only_root_installs_for_the_system() -> None:
    done = subprocess.run(
        [*COMMAND, "--install"],
        user=65534 if os.geteuid() == 0 else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("Error: --install writes to /etc/systemd/system and needs root: ")
    assert done.stderr.count("\n") == 1


def home(folder: Path, status: int = 0) -> dict[str, str]:
    """Return the environment of a user whose systemctl records its arguments and exits with `status`."""
    systemctl = folder / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>"$HOME/asked"\necho "no bus" >&2\nexit {status}\n')
    systemctl.chmod(0o755)
    return {"HOME": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}


def test_install_for_a_user(tmp_path: Path) -> None:
    done = units("--user-manager", "--install", "--name", "web", "--directory", "/nowhere", env=home(tmp_path))
    assert done.exit_code == 0, done.output
    folder, relay = tmp_path / ".config/systemd/user", tmp_path / ".local/lib/flask-socketact/relay"
    assert sorted(path.name for path in folder.iterdir()) == ["web-relay.service", "web.service", "web.socket"]
    assert relay.stat().st_mode & 0o7777 == 0o755
    assert (
        (tmp_path / "asked").read_text()
        == "--version\n--user daemon-reload\n--user is-active --quiet web.service\n--user start web-relay.service\n"
    )
    assert "systemctl --user enable --now web.socket web.service\n" in done.stdout
    assert "systemctl --user restart web\n" in done.stdout
    assert " doctor --user-manager web\n" in done.stdout
    assert "loginctl enable-linger" in done.stdout
    warnings = done.stderr.splitlines()
    assert [line.partition(" yet: ")[0] for line in warnings] == [
        "Warning: there is no folder /nowhere",
        *(line for line in warnings[1:] if line.startswith("Warning: the addresses that systemd holds are unknown: ")),
    ]


def test_an_install_whose_reload_of_systemd_fails(tmp_path: Path) -> None:
    done = units("--user-manager", "--install", env=home(tmp_path, status=1))
    assert done.exit_code == 4
    assert done.stderr.startswith("Error: the units are written, but `")
    assert done.stderr.endswith("systemctl --user daemon-reload` failed: no bus\n")


def test_install_without_systemd(tmp_path: Path) -> None:
    done = units("--user-manager", "--install", env={"HOME": str(tmp_path), "PATH": str(tmp_path)})
    assert done.exit_code == 3
    assert "there is no systemctl" in done.stderr
    assert not list(tmp_path.iterdir())


def test_install_does_not_hide_a_unit_of_systemd(tmp_path: Path) -> None:
    done = units("--user-manager", "--install", "--name", "systemd-exit", env=home(tmp_path))
    assert done.exit_code == 3
    assert "systemd-exit.service has the same name, and would be hidden" in done.stderr
    assert not (tmp_path / ".config").exists()
