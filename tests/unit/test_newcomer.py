"""The tables of script/newcomer fit the pages. The script itself needs minutes and a network."""

from __future__ import annotations

import pytest

from script.newcomer import SEES, WALKS
from tests.support.pages import blocks, commands, text_of


@pytest.mark.parametrize("page", SEES)
def test_it_looks_at_lines_that_are_on_the_page(page: str) -> None:
    typed = [command for block in blocks(page) for command in commands(block)]
    for see in SEES[page]:
        assert any(command.startswith(see.line) for command in typed), see.line
        assert not see.then or f"`{see.then}`" in text_of(page), see.then


def test_each_walk_types_something_of_each_page() -> None:
    for pages in WALKS.values():
        for page in pages:
            assert blocks(page.path, page.heading)[page.skip : page.count], page


def test_here_documents_and_continued_lines_are_one_command() -> None:
    assert commands("a \\\n  b\n# a comment\ncat > x <<'END'\nc\nEND\nd\n") == [
        "a \\\n  b",
        "cat > x <<'END'\nc\nEND",
        "d",
    ]
