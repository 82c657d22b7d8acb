"""What a reload reads again, and what it leaves as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from gunicorn.config import Config

from flask_socketact.errors import ReloadError
from flask_socketact.master import config_reload
from tests.unit.master.conftest import App


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Put everything back that a test adds to, or takes from, the modules."""
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)


def add_module(name: str, path: Path | str | None) -> ModuleType:
    module = ModuleType(name)
    if path is not None:
        module.__file__ = str(path)
    sys.modules[name] = module
    return module


def config(**settings: object) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def test_settings_are_read_again() -> None:
    app = App(workers=2)
    app.settings["workers"] = 3
    config_reload.read_again(app)
    assert app.cfg.workers == 3


def test_settings_stay_when_they_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    app = App(workers=2)
    before = app.cfg
    app.settings["workers"] = "many"
    with pytest.raises(ReloadError) as caught:
        config_reload.read_again(app)
    assert app.cfg is before
    assert isinstance(caught.value.__cause__, ValueError)  # the journal has what it says
    capsys.readouterr()


def test_environment_of_the_settings_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOR", "red")
    monkeypatch.delenv("SHAPE", raising=False)
    cfg = config(raw_env=["COLOR=blue", "SHAPE=round"])
    cfg.env_orig.setdefault("COLOR", "red")
    os.environ.update(cfg.env)
    config_reload.leave_environment(cfg)
    assert os.environ["COLOR"] == "red"
    assert "SHAPE" not in os.environ


def test_modules_of_the_application_are_forgotten_and_returned(tmp_path: Path) -> None:
    settings = add_module("settings", tmp_path / "settings.py")
    add_module("shop", tmp_path / "shop/__init__.py")
    add_module("shop.prices", tmp_path / "shop/prices.py")
    forgotten = config_reload.forget_modules(config(chdir=str(tmp_path)))
    assert forgotten["settings"] is settings
    assert {"settings", "shop", "shop.prices"} <= forgotten.keys()
    assert forgotten.keys().isdisjoint(sys.modules)


def test_modules_of_pythonpath_are_forgotten(tmp_path: Path) -> None:
    work, library = tmp_path / "work", tmp_path / "lib"
    for folder in (work, library):
        folder.mkdir()
    add_module("prices", library / "prices.py")
    cfg = config(chdir=str(work), pythonpath=f"{tmp_path}/other,{library}")
    assert "prices" in config_reload.forget_modules(cfg)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("outside", "/elsewhere/outside.py"),
        ("sibling", "{folder}-2/sibling.py"),  # the folder's name is the beginning of its own
        ("library", f"{sys.prefix}/lib/library.py"),
        ("standard", f"{sys.base_prefix}/lib/standard.py"),
        ("gunicorn.extra", "{folder}/gunicorn/extra.py"),
        ("flask_socketact.extra", "{folder}/flask_socketact/extra.py"),
        ("built_in", None),
    ],
)
def test_other_modules_stay(tmp_path: Path, name: str, path: str | None) -> None:
    add_module(name, path and path.format(folder=tmp_path))
    assert name not in config_reload.forget_modules(config(chdir=str(tmp_path)))
    assert name in sys.modules


def test_a_package_with_a_compiled_module_stays_whole(tmp_path: Path) -> None:
    """It may not be loaded twice into one process."""
    add_module("fast", tmp_path / "fast/__init__.py")
    add_module("fast._speedups", tmp_path / "fast/_speedups.abi3.so")
    add_module("slow", tmp_path / "slow.py")
    forgotten = config_reload.forget_modules(config(chdir=str(tmp_path)))
    assert "slow" in forgotten
    assert forgotten.keys().isdisjoint({"fast", "fast._speedups"})


def test_a_configuration_that_is_a_module_is_forgotten_wherever_it_is() -> None:
    add_module("site_settings", "/elsewhere/site_settings.py")
    cfg = config(config="python:site_settings", chdir="/")
    assert "site_settings" in config_reload.forget_modules(cfg)


def test_an_application_in_the_root_folder_takes_nothing_away() -> None:
    """Every file is below it."""
    add_module("anything", "/srv/anything.py")
    assert "anything" not in config_reload.forget_modules(config(chdir="/"))
