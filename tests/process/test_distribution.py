"""The sdist and the wheel: what is in them, what a package index shows, and that each works in an empty environment.

They are built and installed by the real tools, with what the configured package index has, or script/setup has
downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.http import ask
from tests.support.server import CONF, Server, dial

if TYPE_CHECKING:
    import socket
    from email.message import Message

CHECKOUT = Path(__file__).parents[2]
MANUAL_PAGE = "share/man/man8/flask-socketact.8"
#: They work in a clone only.
NOT_IN_SDIST = (".ci/", ".github/", ".pre-commit-config.yaml")
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: What pip prints when it cannot reach the package index, and has no copy.
NO_NETWORK = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeoutError|No matching distribution found.*")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, which may call pip, and return what it printed."""
    wheels = [*os.environ.get("PIP_FIND_LINKS", "").split(), str(Path(sys.prefix) / "wheels")]
    environ = os.environ | {"PIP_FIND_LINKS": " ".join(filter(os.path.isdir, wheels)), "PIP_RETRIES": "1"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode != 0 and (found := NO_NETWORK.search(output)):
        pytest.fail(f"no network? pip cannot get what this test needs: {found[0]}\n{output}", pytrace=False)
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{output}"
    return output


def git(folder: Path, *arguments: str) -> list[str]:
    """Return the lines that git prints. Root may run the tests in a clone of another user."""
    return run("git", "-c", "safe.directory=*", *arguments, cwd=folder).splitlines()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of this one, with the changes that are not committed."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this is no clone: git tells which files belong to a distribution")
    folder = tmp_path_factory.mktemp("clone")
    for name in git(CHECKOUT, "ls-files", "--cached", "--others", "--exclude-standard"):
        if (CHECKOUT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    return folder


@pytest.fixture(scope="module")
def files(clone: Path) -> set[str]:
    return set(git(clone, "ls-files"))


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, clone, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="module")
def metadata(built: dict[str, Path]) -> Message:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(wheel.read(name))


@pytest.fixture(scope="module", params=["wheel", "sdist", "clone"])
def installed(
    request: pytest.FixtureRequest, clone: Path, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A virtual environment with nothing but the package and what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "venv/bin/python")
    run(*pip, "install", built.get(request.param, clone), cwd=folder)
    return folder / "venv"


def test_sdist_has_what_git_has(built: dict[str, Path], files: set[str]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    assert names == {name for name in files if not name.startswith(NOT_IN_SDIST)} | {"PKG-INFO"}


def test_wheel_has_the_package_and_the_manual_page(built: dict[str, Path], files: set[str]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {name for name in files if name.startswith("flask_socketact/")}
    name = built["wheel"].name.partition("-py3-")[0]
    assert names == package | {f"{name}.data/data/{MANUAL_PAGE}"}


def test_twine_finds_nothing(built: dict[str, Path], tmp_path: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built.values(), cwd=tmp_path)


def test_links_lead_from_an_index_to_the_repository(metadata: Message) -> None:
    """An index shows the README alone: a relative link would lead nowhere."""
    addresses = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert all(url.startswith(addresses["Source"]) for url in addresses.values())
    text = metadata.get_payload()
    readme = (CHECKOUT / "README.md").read_text()
    tag = f"v{metadata['Version']}"
    expected = [
        link if "://" in link else f"{addresses['Source']}/{'raw' if is_picture(link) else 'blob'}/{tag}/{link}"
        for link in LINK.findall(readme)
    ]
    assert LINK.findall(str(text)) == expected != []


def is_picture(link: str) -> bool:
    return link.endswith((".png", ".svg"))


def test_building_and_installing_leave_a_clone_as_it_was(clone: Path, installed: Path) -> None:
    """Folders of builds, perhaps owned by root, would be in the way of the next build."""
    assert installed.is_dir()
    status = git(clone, "status", "--porcelain", "--ignored")
    assert [line for line in status if not line.startswith("A  ")] == []


def test_version(installed: Path, metadata: Message, tmp_path: Path) -> None:
    printed = run(installed / "bin/flask-socketact", "--version", cwd=tmp_path)
    assert printed == f"flask-socketact, version {metadata['Version']}\n"


def test_units_and_the_relay_are_written(installed: Path, tmp_path: Path) -> None:
    assert "[Socket]" in run(installed / "bin/flask-socketact", "units", cwd=tmp_path)
    run(installed / "bin/flask-socketact", "units", "--output", tmp_path, cwd=tmp_path)
    assert os.access(tmp_path / "relay", os.X_OK)
    assert (tmp_path / "app.service").is_file()


def test_manual_page_is_installed(installed: Path) -> None:
    assert (installed / MANUAL_PAGE).read_bytes() == (CHECKOUT / "docs/flask-socketact.8").read_bytes()


def test_gunicorn_serves_a_request(installed: Path, http: socket.socket, tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "examples/app.py", tmp_path)
    gunicorn = str(installed / "bin/gunicorn")
    with Server(tmp_path, *CONF, "app:app", listeners={"http": http}, gunicorn=gunicorn) as server:
        server.wait_until_ready()
        status, content = ask(partial(dial, http))
    assert (status, content.endswith(b"by listener http\n")) == (200, True)
