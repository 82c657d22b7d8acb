"""examples/pipeline/unpack.py refuses what does not fit, was altered, or could write elsewhere, and leaves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

UNPACK = Path(__file__).parents[2] / "examples/pipeline/unpack.py"
HERE = json.loads(
    subprocess.check_output(
        [sys.executable, "-c", "import json, unpack; print(json.dumps(unpack.this_machine()))"], cwd=UNPACK.parent
    )
)


def archive(*members: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as packed:
        for member in members:
            packed.addfile(member, io.BytesIO(b"x" * member.size))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    made.uid = made.gid = 12345
    made.size = 1 if kind == tarfile.REGTYPE else 0
    return made


def stage(folder: Path, data: bytes, manifest: Mapping[str, object] = {}) -> subprocess.CompletedProcess[str]:
    """Unpack an archive; the manifest is right, but for what is given."""
    (folder / "42.tar.gz").write_bytes(data)
    right = {"release": "42", "sha256": hashlib.sha256(data).hexdigest(), **HERE}
    (folder / "42.json").write_text(json.dumps(right | dict(manifest)))
    (folder / "releases").mkdir(exist_ok=True)
    command: list[str | Path] = [sys.executable, "-I", UNPACK, folder / "42.json", folder / "releases"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(folder: Path, done: subprocess.CompletedProcess[str], reason: str) -> None:
    """It says why in one line, and leaves nothing in the folder of releases, nor above it."""
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.startswith("unpack: ")
    assert done.stderr.count("\n") == 1
    assert not list((folder / "releases").iterdir())
    assert {path.name for path in folder.iterdir()} == {"42.tar.gz", "42.json", "releases"}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"python": "cpython 3.99"}, "is for cpython 3.99, and this is "),
        ({"machine": "riscv64"}, "is for riscv64, and this is "),
        ({"libc": "glibc 99.1"}, "needs glibc 99.1, and this is "),
        ({"libc": "musl 1.2"}, "needs musl 1.2, and this is "),
        ({"sha256": "0" * 64}, "was altered"),
        ({"release": "../42"}, "is not the name of a release"),
        ({"release": ".."}, "is not the name of a release"),
    ],
)
def test_a_release_that_does_not_fit_or_was_altered_is_refused(
    tmp_path: Path, manifest: Mapping[str, object], reason: str
) -> None:
    refused(tmp_path, stage(tmp_path, archive(member("app.py")), manifest), reason)


@pytest.mark.parametrize(
    "members",
    [
        (member("../out"),),
        (member("a/../../out"),),
        (member("/tmp/flask-socketact-out"),),  # noqa: S108
        (member("a", tarfile.SYMTYPE, link=".."), member("a/out")),
        (member("app.py", tarfile.LNKTYPE, link="/etc/passwd"),),
        (member("null", tarfile.CHRTYPE),),
        (member("pipe", tarfile.FIFOTYPE),),
        (member("app.py"), member("app.py")),
    ],
    ids=lambda members: members[0].name,
)
def test_members_that_could_lead_elsewhere_are_refused(tmp_path: Path, members: tuple[tarfile.TarInfo, ...]) -> None:
    refused(tmp_path, stage(tmp_path, archive(*members)), "archive")


@pytest.mark.parametrize("data", [b"", b"no archive", archive(member("app.py"))[:60]], ids=["empty", "other", "cut"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, stage(tmp_path, data), "not an archive of build.py")


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases").chmod(0o777)
    refused(tmp_path, stage(tmp_path, archive(member("app.py"))), "another user can write to")


def test_files_get_our_owner_and_no_other_permission_than_to_execute(tmp_path: Path) -> None:
    done = stage(tmp_path, archive(member("app.py", mode=0o666), member("bin/run", mode=0o6777)))
    assert done.stdout == f"{tmp_path}/releases/42\n", done.stderr
    modes = {name: (tmp_path / "releases/42" / name).stat() for name in ("app.py", "bin/run", "bin", "")}
    assert [oct(status.st_mode & 0o7777) for status in modes.values()] == ["0o644", "0o755", "0o755", "0o755"]
    assert {status.st_uid for status in modes.values()} == {tmp_path.stat().st_uid}
    python = tmp_path / "releases/42/venv/bin/python3"
    prefix = subprocess.check_output([python, "-Ic", "import sys; print(sys.prefix)"], text=True)
    assert prefix == f"{python.parents[1]}\n"
    again = stage(tmp_path, archive(member("app.py")))
    assert again.stderr == f"unpack: {tmp_path}/releases/42 exists already\n"
