"""The folder of a run: an interruption loses nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.results import PHASE, RESTART, RUN, Results, ResultsError
from tests.unit.soak.test_plan import settings


def test_records_are_there_after_an_interruption(tmp_path: Path) -> None:
    """The process was killed while it wrote the last one."""
    first = Results.begin(tmp_path / "run", settings(9))
    first.add(RESTART, number=1)
    first.add(PHASE, index=0)
    first.close()
    path = tmp_path / "run/soak.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "restart", "num')
    again = Results.resume(tmp_path / "run")
    assert [record["kind"] for record in again.records] == [RUN, RESTART, PHASE]
    assert again.settings == settings(9)
    again.add(RESTART, number=2)
    again.close()
    last = Results.resume(tmp_path / "run")
    assert [record["number"] for record in last.of(RESTART)] == [1, 2]
    last.close()


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    Results.begin(tmp_path, settings(9)).close()
    before = (tmp_path / "soak.jsonl").read_text()
    with pytest.raises(ResultsError, match="--resume"):
        Results.begin(tmp_path, settings(3))
    assert (tmp_path / "soak.jsonl").read_text() == before


@pytest.mark.parametrize(
    "content", [None, "", "no JSON\n", "[1]\n", '{"kind": "run", "format": 99}\n', '{"kind": "x"}\n']
)
def test_what_cannot_be_resumed(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "soak.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultsError, match=r"soak\.jsonl"):
        Results.resume(tmp_path)
    assert content is None or path.read_text() == content


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="--folder"):
        Results.begin(tmp_path / "file/run", settings(9))
