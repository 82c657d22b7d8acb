"""Settings of Sphinx for the documentation; script/docs builds it."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import rst

if TYPE_CHECKING:
    import click
    from sphinx.application import Sphinx

CHECKOUT = Path(__file__).parent.parent
sys.path.insert(0, str(CHECKOUT))  # docstrings of the checkout, not of what is installed

project = "flask_socketact"
release = metadata.version("flask-socketact")
copyright = "the flask_socketact developers"  # noqa: A001 (Sphinx's name)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinxcontrib.mermaid"]

# The source directory is the checkout, not docs/: so a relative link works here and on a code host alike.
include_patterns = ["*.md", "docs/*.md", "benchmarks/*.md", "examples/*.md", "examples/chaos/*.md"]
exclude_patterns = [".*", "build"]
root_doc = "docs/index"

html_theme = "furo"
html_title = "flask_socketact"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
html_show_sourcelink = False

# The manual page: script/man builds it.
man_pages = [("docs/manual", "flask-socketact", "run Flask applications as services of systemd", "", 8)]
today = " "  # no date, so that the page changes only with its text

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!flask_socketact).*"),  # other packages: the build needs no network, so it reads no inventories
    ("py:class", r"flask_socketact\..*\.[A-Z]"),  # type variables
]


def complete_links_to_folders(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to a folder of examples lead to the page that describes it: a site has no page for a folder."""
    page = CHECKOUT / f"{docname}.md"

    def complete(link: re.Match[str]) -> str:
        folder = (page.parent / link[1]).resolve()
        if not folder.is_dir() or not folder.is_relative_to(CHECKOUT / "examples"):
            return link[0]
        name = folder.relative_to(CHECKOUT / "examples")
        anchor = f"#{name}" if name.parts else ""
        prefix = "../" * (len(Path(docname).parts) - 1)
        return f"]({prefix}examples/README.md{anchor})"

    source[0] = re.sub(r"\]\(([^)\s#:]+)\)", complete, source[0])


def format_options(_app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Write the options of a command as ``--help`` does: sphinx-click puts each default on a line of its own."""
    options = (each for each in context.command.params if each.param_type_name == "option")
    records = [record for option in options if (record := option.get_help_record(context))]
    lines[:] = [line for name, text in records for line in (f".. option:: {name}", "", f"   {rst.escape(text)}", "")]


def drop_arguments(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Remove the list of arguments: the usage shows them, and the description explains them."""
    lines.clear()


def setup(app: Sphinx) -> None:
    app.connect("sphinx-click-process-options", format_options)
    app.connect("sphinx-click-process-arguments", drop_arguments)
    app.connect("source-read", complete_links_to_folders)
