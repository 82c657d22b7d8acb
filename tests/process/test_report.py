"""The report of a rehearsal in a real browser: Debian's chromium, without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flask_socketact import files
from flask_socketact.cli.rehearse import report
from tests.support.browser import HOSTILE, console_messages, open_browser, run, use, visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser() as chrome:
        yield chrome


@pytest.fixture
def opened(browser: Chrome, tmp_path: Path) -> Chrome:
    """The report of a run that clients noticed, compared with one that they did not."""
    runs = [run("plain gunicorn", failures=30, closed=7), run(f"ours {HOSTILE}", failures=0)]
    return visit(browser, tmp_path / "report.html", runs)


def pixels(browser: Chrome, number: int = 0) -> str:
    """Return the pixels of a canvas."""
    return str(browser.execute_script("return document.querySelectorAll('canvas')[arguments[0]].toDataURL()", number))


def request_counts(browser: Chrome) -> list[str]:
    """Return the requests before, during and after restarts, below the first histogram."""
    cells = browser.find_elements(By.CSS_SELECTOR, "#histograms figure:first-child tbody td:nth-child(2)")
    return [cell.text for cell in cells]


def details(browser: Chrome) -> str:
    return browser.find_element(By.ID, "told").text.strip()


def test_charts_are_drawn_without_errors_or_requests(opened: Chrome) -> None:
    assert opened.execute_script("return document.documentElement.dataset.drawn") is not None
    assert console_messages(opened) == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert opened.title.startswith("Restarts under load: plain gunicorn and ours </script>")
    verdicts = [each.text.splitlines() for each in opened.find_elements(By.CLASS_NAME, "verdict")]
    assert [first for first, _ in verdicts] == ["✘ Broken: clients noticed", "✔ Kept: no client noticed"]
    assert verdicts[0][1].startswith("2,030 requests, 30 failed, 7 connections closed, 2 restarts (1 of them failed)")
    blank = "const c = document.createElement('canvas'); c.width = arguments[0].width; c.height = arguments[0].height;"
    for canvas in opened.find_elements(By.TAG_NAME, "canvas"):
        assert opened.execute_script(f"{blank} return c.toDataURL() != arguments[0].toDataURL()", canvas)


def test_kinds_can_be_left_out(opened: Chrome) -> None:
    before, counted = pixels(opened), request_counts(opened)
    labels = opened.find_elements(By.CSS_SELECTOR, "#kinds label")
    assert [label.text for label in labels] == ["new connection", "keep-alive", "long response", "failed only"]
    labels[0].click()
    assert pixels(opened) != before
    assert sum(int(count) for count in request_counts(opened)) == 400  # of the others
    labels[0].click()
    assert (pixels(opened), request_counts(opened)) == (before, counted)
    labels[3].click()
    assert request_counts(opened) == ["0", "30", "0"]


def test_restarts_are_enlarged_by_button_mouse_and_keys(opened: Chrome) -> None:
    whole = pixels(opened)
    buttons = opened.find_elements(By.CSS_SELECTOR, "#zoom button")
    assert [button.text for button in buttons] == ["all", "restart 1", "restart 2"]
    buttons[1].click()
    enlarged = pixels(opened)
    assert enlarged != whole
    buttons[0].click()
    assert pixels(opened) == whole
    canvas = opened.find_element(By.TAG_NAME, "canvas")
    ActionChains(opened).move_to_element_with_offset(canvas, -200, 20).click_and_hold().move_by_offset(100, 0).perform()
    ActionChains(opened).release().perform()
    assert pixels(opened) not in (whole, enlarged)
    ActionChains(opened).double_click(canvas).perform()
    canvas.send_keys("+", Keys.ARROW_LEFT, "-", Keys.ARROW_RIGHT, "+")
    assert pixels(opened) != whole
    canvas.send_keys("0", "n", "p", "p")
    assert details(opened).startswith("new connection, 0.000 s after the beginning (before restarts): response after ")


def test_requests_are_shown_one_by_one(opened: Chrome) -> None:
    """By keyboard, and with the mouse over one."""
    opened.find_elements(By.CSS_SELECTOR, "#kinds label")[3].click()
    canvas = opened.find_element(By.TAG_NAME, "canvas")
    canvas.send_keys("n")
    first = "new connection, 5.100 s after the beginning (during restarts): failed: status 502 after 1.5 s"
    assert details(opened) == first
    canvas.send_keys("n")
    second = "new connection, 5.101 s after the beginning (during restarts): failed: connection reset"
    assert details(opened) == f"{second} {HOSTILE} after 1.5 s"
    assert opened.title != "run"
    opened.execute_script("document.activeElement.blur()")
    ActionChains(opened).move_to_element_with_offset(canvas, 300, 100).perform()
    assert details(opened) == ""
    canvas.send_keys("p")
    assert details(opened) == ""  # no request is before the first


def test_failures_are_listed(opened: Chrome) -> None:
    texts = [each.text for each in opened.find_elements(By.CSS_SELECTOR, "#failed > *")]
    assert texts[0].startswith("1: plain gunicorn: 30 requests")
    assert texts[1].endswith(": none.")
    opened.find_element(By.CSS_SELECTOR, "#failed summary").click()
    rows = opened.find_elements(By.CSS_SELECTOR, "#failed tbody tr")
    assert len(rows) == 30
    assert rows[0].text == "new connection 5.100 s 1.5 s status 502"


def test_clients_that_noticed_without_a_failure_are_not_passed_over(browser: Chrome, tmp_path: Path) -> None:
    visit(browser, tmp_path / "report.html", [run("app", failures=0, closed=7, fail_on="failed>0")])
    assert browser.find_element(By.CLASS_NAME, "verdict").text.startswith("✔ Kept, but clients noticed\n")
    failed = browser.find_element(By.ID, "failed").text
    assert failed == "app: the server closed 7 connections, but no request failed."


def test_screen_readers_have_a_name_for_everything(opened: Chrome) -> None:
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {"button", "checkbox", "image", "table", "region", "DisclosureTriangle"}
    found = [(node["role"]["value"], node["name"]["value"]) for node in nodes if "name" in node]
    assert named <= {role for role, _ in found}
    assert not [role for role, name in found if role in named and not name]
    legends = opened.find_elements(By.CSS_SELECTOR, "fieldset > legend")
    assert [legend.text for legend in legends] == ["Clients", "Zoom"]
    assert opened.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    levels = [each.tag_name for each in opened.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == "h1"
    assert levels.count("h1") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened: Chrome, tmp_path: Path, scheme: str) -> None:
    """Contrast is at least 4.5 (WCAG 2.2, 1.4.3), and charts follow the color scheme."""
    other = "dark" if scheme == "light" else "light"
    use(opened, other)
    before = pixels(opened)
    use(opened, scheme)
    assert pixels(opened) != before
    selectors = (".what", ".kept", ".broken", ".bad", "button", "legend", "footer", "figcaption", ".labels span")
    assert not [each for each in ("body", *selectors) if contrast_of(opened, each) < 4.5]
    visit(opened, tmp_path / "limited.html", [run("plain gunicorn", failures=0, closed=7, fail_on="failed>0")])
    assert contrast_of(opened, ".limited") >= 4.5


_COLOURS = """
const style = getComputedStyle(arguments[0]);
let page = arguments[0];
while (getComputedStyle(page).backgroundColor === "rgba(0, 0, 0, 0)") page = page.parentElement;
const numbers = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
return [numbers(style.color), numbers(getComputedStyle(page).backgroundColor)];
"""


def contrast_of(browser: Chrome, selector: str) -> float:
    text, page = browser.execute_script(_COLOURS, browser.find_element(By.CSS_SELECTOR, selector))
    return contrast(text, page)


def contrast(one: list[float], other: list[float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_many_requests_and_none(browser: Chrome, tmp_path: Path) -> None:
    visit(browser, tmp_path / "many.html", [run("many", failures=500, requests=200_000)])
    assert request_counts(browser)[1] != "0"
    assert browser.find_element(By.CSS_SELECTOR, "#failed caption").get_attribute("textContent") == (
        "many: the first 200 of 500"
    )
    visit(browser, tmp_path / "none.html", [run("none", failures=0, requests=0)])
    assert console_messages(browser) == []
    assert request_counts(browser) == ["0", "0", "0"]


def test_report_is_read_again(tmp_path: Path) -> None:
    """For a comparison: the last run of the file is its own."""
    runs = [run("earlier", failures=1), run(HOSTILE, failures=0)]
    files.write(tmp_path / "report.html", report.render(runs))
    assert report.read(tmp_path / "report.html") == runs[1]
