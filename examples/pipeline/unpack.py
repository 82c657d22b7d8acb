#!/usr/bin/python3 -I
"""Unpack a release that build.py has packed, on a server, so that only its owner can change it.

Usage: unpack.py RELEASE.json RELEASES

RELEASE.tar.gz is in the same folder as RELEASE.json. RELEASES gets the folder RELEASE, complete or not at all. Run it
as root, with the Python of the release.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import venv
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
MOST = 1 << 30  #: bytes in an archive, and in what it unpacks to: a mistake must not fill the disk


class RefusedError(Exception):
    """The release is not unpacked, for this reason."""


def this_machine() -> dict[str, str]:
    """Return what compiled modules depend on."""
    return {
        "python": f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}",
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "machine": platform.machine(),
    }


def unpack(manifest_path: Path, releases: Path) -> Path:
    """Unpack a release, and return its folder.

    :raises RefusedError: it was altered, does not fit this machine, is not as build.py makes it, or is there already.
    :raises OSError: a file cannot be read or written.
    """
    manifest = read_manifest(manifest_path)
    check_fit(manifest)
    check_owner(releases)
    target = releases / manifest["release"]
    if os.path.lexists(target):
        raise RefusedError(f"{target} exists already")
    made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=releases))  # only we may enter it
    try:
        with tempfile.TemporaryFile(dir=releases) as copy:
            archive = manifest_path.with_name(f"{manifest['release']}.tar.gz")
            # What is unpacked is what was checked: the archive may be in a folder of another user.
            copy_unaltered(archive, manifest["sha256"], copy)
            copy.seek(0)
            write_files(copy, made)
        # The links to Python, and pyvenv.cfg, are this machine's.
        venv.EnvBuilder(symlinks=True, with_pip=False).create(made / "venv")
        correct_paths(made / "venv", target / "venv")
        made.chmod(0o755)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made)
        raise
    return target


def read_manifest(path: Path) -> dict[str, str]:
    try:
        manifest = json.loads(path.read_bytes())
        found = {key: str(manifest[key]) for key in ("release", "sha256", "python", "libc", "machine")}
    except (ValueError, LookupError, TypeError):
        raise RefusedError(f"{path} is not a manifest of build.py") from None
    if not RELEASE.fullmatch(found["release"]):
        raise RefusedError(f"{path}: {found['release']!r} is not the name of a release")
    return found


def check_fit(manifest: dict[str, str]) -> None:
    """Compare with this machine; a later version of the same libc has what an earlier one has."""
    here = this_machine()
    for key in ("python", "machine"):
        if manifest[key] != here[key]:
            raise RefusedError(f"release {manifest['release']} is for {manifest[key]}, and this is {here[key]}")
    (wanted, *needs), (libc, *has) = manifest["libc"].split(), here["libc"].split()
    if wanted != libc or [_numbers(text) for text in needs] > [_numbers(text) for text in has]:
        raise RefusedError(f"release {manifest['release']} needs {manifest['libc']}, and this is {here['libc']}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def check_owner(releases: Path) -> None:
    """Refuse a folder in which another user could change the release."""
    for folder in (releases.resolve(strict=True), *releases.resolve().parents):
        status = folder.stat()
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or others_write:
            raise RefusedError(f"another user can write to {folder}: chown root: {folder}; chmod go-w {folder}")


def copy_unaltered(archive: Path, sha256: str, copy: IO[bytes]) -> None:
    """Copy an archive, and refuse it if the copy has another sha256."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(archive, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RefusedError(f"{archive} is not a file")
        while block := file.read(1 << 20):
            digest.update(block)
            copy.write(block)
            if copy.tell() > MOST:
                raise RefusedError(f"{archive} is larger than {MOST:,} bytes")
    if digest.hexdigest() != sha256:
        raise RefusedError(f"{archive} was altered: its sha256 is not that of the manifest")


def write_files(archive: IO[bytes], folder: Path) -> None:
    """Write the files of an archive: new ones, ours, with the permission to execute and no other of the archive's."""
    left = MOST
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as members:
            for member in members:
                name = PurePosixPath(member.name)
                left -= member.size
                if not member.isreg() or name.is_absolute() or ".." in name.parts or left < 0:
                    raise RefusedError(f"{member.name!r} in the archive is a link, leads elsewhere, or is too large")
                path = folder / name
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                content = members.extractfile(member)
                assert content is not None  # it is a file
                with path.open("xb") as file:
                    shutil.copyfileobj(content, file)
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileExistsError):
            raise  # the disk's
        raise RefusedError(f"not an archive of build.py: {error}") from None


def correct_paths(made: Path, target: Path) -> None:
    """Replace the path of the folder in which a virtual environment was made."""
    for path in (made / "pyvenv.cfg", *(made / "bin").glob("[aA]ctivate*")):
        path.write_text(path.read_text().replace(str(made), str(target)))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: unpack.py RELEASE.json RELEASES")
    os.umask(0o022)
    try:
        print(unpack(Path(sys.argv[1]), Path(sys.argv[2])))
    except (RefusedError, OSError) as error:
        sys.exit(f"unpack: {error}")


if __name__ == "__main__":
    main()
