"""Log files after a rotation: opened again, or left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from flask_socketact.logs import reopen


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logger]:
    """gunicorn's logger, which writes to files in a folder."""
    (tmp_path / "log").mkdir()
    cfg = Config()
    cfg.set("errorlog", str(tmp_path / "log/error"))
    cfg.set("accesslog", str(tmp_path / "log/access"))
    log = Logger(cfg)
    yield log
    for logger in (log.error_log, log.access_log):
        for handler in logger.handlers[:]:
            handler.close()
            logger.removeHandler(handler)


def test_a_file_that_was_moved_away_is_made_again(log: Logger, tmp_path: Path) -> None:
    log.error("before")
    (tmp_path / "log/error").rename(tmp_path / "log/error.1")
    reopen.reopen(log)
    log.error("after")
    assert "after" in (tmp_path / "log/error").read_text()
    assert "after" not in (tmp_path / "log/error.1").read_text()


def test_no_file_is_reopened_if_one_cannot_be_opened(log: Logger, tmp_path: Path) -> None:
    """gunicorn would close it first, and then raise at every line."""
    (tmp_path / "log/access").unlink()
    (tmp_path / "log/access").mkdir()
    (tmp_path / "log/error").rename(tmp_path / "log/error.1")
    reopen.reopen(log)
    log.error("after")
    assert not (tmp_path / "log/error").exists() or "after" not in (tmp_path / "log/error").read_text()
    text = (tmp_path / "log/error.1").read_text()
    assert f"{tmp_path}/log/access: Is a directory" in text
    assert "after" in text


def test_without_files_there_is_nothing_to_reopen() -> None:
    assert reopen.can_reopen(Logger(Config()))
