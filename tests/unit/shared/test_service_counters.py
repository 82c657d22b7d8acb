"""What the masters of a service count, one after the other."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import flask_socketact.handover
from flask_socketact.shared import service_counters
from flask_socketact.shared.service_counters import FOLDER, ServiceCounters

LOG: Any = logging.getLogger(__name__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the service, which systemd has not made yet."""
    folder = tmp_path / "run/app"
    monkeypatch.setenv(FOLDER, f"{folder}:{tmp_path}/other")
    return folder


def test_a_master_continues_what_the_one_before_has_counted(folder: Path) -> None:
    for starts in (1, 2, 3):
        counters = ServiceCounters(LOG)
        counters.count("starts")
        assert service_counters.read(folder) == {"starts": starts}
    counters.count("reloads")
    counters.note(boot_seconds=1.5)
    assert service_counters.read(folder) == {"starts": 3, "reloads": 1, "boot_seconds": 1.5}


def test_the_first_folder_of_the_service_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_counters.find_folder() == folder
    for value in ("", ":/elsewhere"):
        monkeypatch.setenv(FOLDER, value)
        assert service_counters.find_folder() is None
    monkeypatch.delenv(FOLDER)
    assert service_counters.find_folder() is None


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    counters = ServiceCounters(LOG)
    counters.count("starts")
    counters.note(boot_seconds=1.5)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_folder_that_cannot_be_written_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER, f"{tmp_path}/file/app")
    counters = ServiceCounters(LOG)
    counters.count("starts")
    counters.count("reloads")
    (record,) = caplog.records
    assert f"{FOLDER}={tmp_path}/file/app" in record.getMessage()


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "null", '{"starts": "many", "reloads": null}', "\xff"])
def test_a_malformed_file_counts_from_zero(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "service.json").write_bytes(text.encode("latin-1"))
    assert service_counters.read(folder) == {}
    ServiceCounters(LOG).count("starts")
    assert service_counters.read(folder) == {"starts": 1}


def test_only_numbers_are_read(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "service.json").write_text(json.dumps({"starts": 7, "boot_seconds": 1.5, "name": "x", "list": [1]}))
    assert service_counters.read(folder) == {"starts": 7, "boot_seconds": 1.5}


@pytest.mark.parametrize(
    ("folders", "ours"),
    [("/run/a:/run/shop-metrics", "/run/shop-metrics"), ("/run/a:/run/b", "/run/a"), ("/run/a", "/run/a")],
)
def test_the_relay_and_python_use_the_same_folder(folders: str, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd sorts the folders of RuntimeDirectory=."""
    monkeypatch.setenv(service_counters.FOLDER, folders)
    assert str(service_counters.find_folder()) == ours
    relay = Path(flask_socketact.handover.__file__).with_name("relay").read_text()
    (function,) = re.findall(r"^own_folder\(\) \{.*?^\}", relay, re.DOTALL | re.MULTILINE)
    done = subprocess.run(["sh", "-uc", f"{function}\nown_folder"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ours}\n"
