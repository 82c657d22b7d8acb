"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import gunicorn.arbiter
import pytest

from flask_socketact import env
from flask_socketact.bridge import keys

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
UNITS = CHECKOUT / "examples/units"
PAGES = sorted(
    page
    for folder in (".", "docs", "benchmarks", "examples", "examples/chaos")
    for page in (CHECKOUT / folder).glob("*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: Keys of the WSGI environ that are private to one side.
PRIVATE_KEYS = {keys.EXCHANGE, keys.MEMBER, keys.SENT, keys.WAITED}


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page if not path else page.parent / path
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors(target)


def constants(module: object) -> set[str]:
    """Return the values of the module's constants that are strings."""
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_relative_links(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if is_broken(page, link)] == []


def test_there_are_links_to_check() -> None:
    assert sum(len(LINK.findall(page.read_text())) for page in PAGES) > 50


def test_broken_links_are_found() -> None:
    page = CHECKOUT / "README.md"
    assert is_broken(page, "docs/none.md")
    assert is_broken(page, "docs/systemd.md#none")
    assert not is_broken(page, "docs/restarts.md#overlap")


def test_every_promise_has_a_test_of_its_name() -> None:
    section = (CHECKOUT / "README.md").read_text().split("\n## Promises\n")[1].split("\n## ")[0]
    promises = re.findall(r"^- \*\*(.+?)\.?\*\*", section, re.MULTILINE)
    wanted = {"test_" + promise.replace("`", "").replace(" ", "_").lower() for promise in promises}
    tests = "".join(file.read_text() for file in (CHECKOUT / "tests/systemd").glob("test_*.py"))
    assert len(promises) == 9
    assert wanted - set(re.findall(r"^def (\w+)", tests, re.MULTILINE)) == set()


def test_python_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "app"}
    exec(block, names)  # noqa: S102 (ours)
    client = names["app"].test_client()
    assert client.get("/").text == "by listener None, draining: False\n"
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)


def test_readme_requires_what_the_package_requires() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    project = (CHECKOUT / "pyproject.toml").read_text()
    patterns = {"gunicorn": r'"gunicorn>=(.+)"', "Flask": r'"flask>=(.+)"', "Python": r'^requires-python = ">=(.+)"'}
    versions = {name: found[1] for name, each in patterns.items() if (found := re.search(each, project, re.MULTILINE))}
    assert versions.keys() == patterns.keys()
    assert [name for name, version in versions.items() if f" {name} {version}" not in readme] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_scripts_can_be_executed(page: str) -> None:
    scripts = set(re.findall(r"\bscript/\w+", (CHECKOUT / page).read_text()))
    assert scripts
    assert [script for script in scripts if not os.access(CHECKOUT / script, os.X_OK)] == []


def test_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    listed = {(DOCS / link).resolve() for link in LINK.findall(index.read_text())}
    assert sorted({page.resolve() for page in PAGES} - listed) == [index]


def test_glossary_is_sorted_and_brief() -> None:
    terms = re.findall(r"^## (.+)\n\n((?:.+\n)+)", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert [term for term, _ in terms] == sorted(term for term, _ in terms)
    assert len(terms) > 12
    assert [term for term, text in terms if len(re.findall(r"\.(?=\s)", text)) > 2] == []


def test_api_page_has_every_environment_variable() -> None:
    page = (DOCS / "api.md").read_text()
    assert {name for name in constants(env) if f"| `{name}` |" not in page} == set()


def test_api_page_has_every_public_key_of_the_environ() -> None:
    page = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"^\| `(socketact\.\w+)` \|", page, re.MULTILINE))
    assert listed == constants(keys) - PRIVATE_KEYS


def test_architecture_names_files_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text()
    files = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/relay))`", page)
    package = CHECKOUT / "flask_socketact"
    assert len(files) > 10
    assert [file for file in files if not (package / file).is_file()] == []


def test_sequence_diagrams_have_no_semicolons() -> None:
    """Mermaid ends a statement there, and shows an error in the place of the picture."""
    text = "".join(page.read_text() for page in PAGES)
    diagrams = re.findall(r"```mermaid\nsequenceDiagram\n(.*?)```", text, re.DOTALL)
    assert diagrams
    assert [diagram for diagram in diagrams if ";" in diagram] == []


def test_systemd_page_quotes_the_units() -> None:
    """Each line of its blocks is one of the example units."""
    lines = {line for kind in ("service", "socket") for line in (UNITS / f"app.{kind}").read_text().splitlines()}
    blocks = re.findall(r"```ini\n(.*?)```", (DOCS / "systemd.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    assert [line for block in blocks for line in block.splitlines() if line not in lines] == []


def first_column(page: Path, header: str) -> list[str]:
    """Return what stands in backquotes in the first column of the table that begins with `header`."""
    table = page.read_text().split(f"\n| {header} |")[1].split("\n\n")[0]
    rows = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("header", ["status", "message"])
def test_systemd_page_quotes_messages_of_the_code(header: str) -> None:
    """The parts of a message that do not depend on the case stand in the source, ours or gunicorn's."""
    files = [*(CHECKOUT / "flask_socketact").rglob("*.py"), Path(gunicorn.arbiter.__file__)]
    source = re.sub(r'"\s*\n\s*f?"', "", "".join(file.read_text() for file in files))
    messages = first_column(DOCS / "systemd.md", header)
    assert len(messages) > 12
    variable = r"[\d…:.,;=()\[\]']+|\b(?:a|at|but|with|RuntimeError|ValueError)\b|app-drain\S+|/\S+"
    parts = [part.strip() for text in messages if "invalid literal" not in text for part in re.split(variable, text)]
    assert [part for part in parts if len(part) > 8 and part not in source] == []
