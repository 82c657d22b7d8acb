#!/usr/bin/env python3
"""Pack a release: an application, and a virtual environment that works in any folder of any machine that it fits.

Usage: build.py FOLDER RELEASE OUTPUT

FOLDER has the application and requirements.txt. OUTPUT gets RELEASE.tar.gz, and RELEASE.json, which says where it fits.
Run it with the Python, on the Debian, that the servers have. The Python needs pip 22.3 or later.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from unpack import RELEASE, this_machine

#: Instead of the path of a Python: run the one next to the script, wherever both are. uv writes the same.
FIRST_LINES = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/python3 "$0" "$@"
' '''
"""


def build(source: Path, release: str, output: Path) -> Path:
    """Make both files, and return the path of the archive."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "release"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "venv"), symlinks=True)
        install(folder / "venv", source / "requirements.txt")
        data = pack(folder)
    output.mkdir(parents=True, exist_ok=True)
    archive = output / f"{release}.tar.gz"
    archive.write_bytes(data)
    manifest = {"release": release, "sha256": hashlib.sha256(data).hexdigest(), **this_machine()}
    (output / f"{release}.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return archive


def install(venv: Path, requirements: Path) -> None:
    """Make a virtual environment without what `unpack.py` makes on the server, which are links to its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin/python3"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    subprocess.run([*pip, "install", "--no-compile", "--requirement", requirements], check=True)
    # Compiled here, since the service may not write there. The times of the files are others on the server.
    compile_all = ("-m", "compileall", "-q", "--invalidation-mode", "checked-hash")
    subprocess.run([python, *compile_all, venv.parent], check=True)
    for script in (venv / "bin").iterdir():
        first, _, rest = script.read_bytes().partition(b"\n")
        if script.is_symlink() or script.name.lower().startswith("activate"):
            script.unlink()
        elif first.startswith(b"#!") and str(venv).encode() in first:
            script.write_bytes(FIRST_LINES + rest)
    (venv / "lib64").unlink(missing_ok=True)
    (venv / "pyvenv.cfg").unlink()


def pack(folder: Path) -> bytes:
    """Return an archive that depends on the names and contents of the files only."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                sys.exit(f"build: {path.relative_to(folder)} is a link or a special file: a release has files only")
            if path.is_file():
                member = tarfile.TarInfo(str(path.relative_to(folder)))
                member.size = path.stat().st_size
                member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                with path.open("rb") as file:
                    archive.addfile(member, file)
    return packed.getvalue()


def main() -> None:
    if len(sys.argv) != 4 or not RELEASE.fullmatch(sys.argv[2]):
        sys.exit("usage: build.py FOLDER RELEASE OUTPUT; RELEASE has letters, digits, '.', '_' and '-'")
    try:
        print(build(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
    except subprocess.CalledProcessError:
        sys.exit("build: the requirements cannot be installed, for the reason above")


if __name__ == "__main__":
    main()
