"""The report on screens of all widths: nothing collides, is cut, or makes the page wider than the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from flask_socketact.cli.rehearse.recording import Restart
from tests.support.browser import HOSTILE, open_browser, run, use, visit

#: Of two phones, a tablet, and two desktops; 640 pixels is where rows are cards no longer.
WIDTHS = (320, 390, 640, 768, 1280, 1920)

#: Lists what is wrong with the text on the page, and with the boxes that hold it.
_FAULTS = """
const width = arguments[0], faults = [], lines = [];
const isHidden = (element) => element.closest("script, style, noscript") || !element.checkVisibility();
const isForReadersOnly = (element) => {
  for (let each = element; each; each = each.parentElement)
    if (getComputedStyle(each).clipPath !== "none") return true;
  return false;
};
if (document.documentElement.scrollWidth > width) faults.push(`page: ${document.documentElement.scrollWidth} wide`);
for (const element of document.body.querySelectorAll("*")) {
  if (isHidden(element) || isForReadersOnly(element) || !element.clientWidth) continue;
  if (element.scrollWidth > element.clientWidth + 1)
    faults.push(`<${element.tagName} class="${element.className}">: ${element.scrollWidth} in ${element.clientWidth}: `
      + element.textContent.trim().slice(0, 40));
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode, parent = text.parentElement;
  if (!text.data.trim() || isHidden(parent) || isForReadersOnly(parent)) continue;
  const range = document.createRange();
  range.selectNodeContents(text);
  for (const line of range.getClientRects()) {
    if (line.left < 0 || line.right > width) faults.push(`off the screen: ${text.data}`);
    lines.push([text.data.trim(), line]);
  }
}
lines.forEach(([text, one], i) => lines.slice(i + 1).forEach(([next, other]) => {
  const [across, down] = [Math.min(one.right, other.right) - Math.max(one.left, other.left),
    Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top)];
  if (across > 1 && down > 1) faults.push(`on each other: ${text} | ${next}`);
}));
return faults;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser() as chrome:
        yield chrome


def faults(browser: Chrome, width: int) -> list[str]:
    found: list[str] = browser.execute_script(_FAULTS, width)
    return found


def resize(browser: Chrome, width: int) -> None:
    """Show the page as on a screen of this width; up to a tablet's it is one that is touched."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": width < 1000}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 1000})
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def compared(restarts: int, *, is_single: bool = False) -> list[dict[str, Any]]:
    """Return a run with failures, long words and so many restarts, one of them failed, and one without failures."""
    step = 20 / (restarts + 1)
    made = [Restart((i + 0.7) * step, (i + 1.2) * step, 0, "", f"main process {100 + i}") for i in range(restarts)]
    bad = [*made[:-1], Restart(made[-1].began, made[-1].ended, 1, f"Failed: {'x' * 100}")]
    first = run(f"plain gunicorn, http://127.0.0.1/{'long/' * 20}", failures=30, closed=7, restarts=bad)
    return [first] if is_single else [first, run(f"ours {HOSTILE}", failures=0, restarts=made)]


def labels(browser: Chrome) -> list[str]:
    """Return the labels of the first chart."""
    return [each.text for each in browser.find_elements(By.CSS_SELECTOR, "figure:first-child .labels span")]


@pytest.mark.parametrize("is_single", [True, False], ids=["single", "compared"])
@pytest.mark.parametrize("restarts", [1, 5, 50])
def test_text_is_whole_and_apart_on_screens_of_all_widths(
    browser: Chrome, tmp_path: Path, restarts: int, is_single: bool
) -> None:
    resize(browser, WIDTHS[0])
    visit(browser, tmp_path / "report.html", compared(restarts, is_single=is_single))
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    buttons = browser.find_elements(By.CSS_SELECTOR, "#zoom button")
    assert len(buttons) == restarts + 1
    for width in WIDTHS:
        resize(browser, width)
        for scheme in ("light", "dark"):
            use(browser, scheme)
            for button in (buttons[-1], buttons[len(buttons) // 2], buttons[0]):
                browser.execute_script("arguments[0].click()", button)
                assert faults(browser, width) == [], (width, scheme, button.text)


def test_labels_of_restarts_are_numbers_where_words_do_not_fit(browser: Chrome, tmp_path: Path) -> None:
    resize(browser, 1280)
    visit(browser, tmp_path / "report.html", compared(5))
    assert {"generation 1, main process 100", "restart 1", "restart 5 failed"} <= set(labels(browser))
    resize(browser, 390)
    assert {"generation", "restart", "1", "2", "3", "4", "5 ✘"} <= set(labels(browser))
    browser.find_elements(By.CSS_SELECTOR, "#zoom button")[2].click()
    assert "restart 2" in labels(browser)
    visit(browser, tmp_path / "report.html", compared(50))
    assert {"restart", "10", "20", "30", "40", "50 ✘"} <= set(labels(browser))
    visit(browser, tmp_path / "report.html", compared(1))
    assert "restart 1 failed" in labels(browser)


def test_rows_are_cards_on_a_phone(browser: Chrome, tmp_path: Path) -> None:
    """Each value has the name of its column, for the eye and for screen readers."""
    resize(browser, 320)
    visit(browser, tmp_path / "report.html", compared(5))
    head = [
        each.get_attribute("textContent")
        for each in browser.find_elements(By.CSS_SELECTOR, ".run:first-child thead th")
    ]
    row = browser.find_elements(By.CSS_SELECTOR, ".run:first-child tbody tr:first-child > *")
    assert len(row) == len(head) == 8
    shown = "return getComputedStyle(arguments[0], '::before').content"
    assert [browser.execute_script(shown, cell) for cell in row[1:]] == [f'"{name}"' for name in head[1:]]
    assert "half of the requests took no longer" in browser.find_element(By.CLASS_NAME, "terms").text
    roles = [
        node["role"]["value"]
        for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        if "role" in node
    ]
    assert {"table", "row", "rowheader", "columnheader", "cell"} <= set(roles)
