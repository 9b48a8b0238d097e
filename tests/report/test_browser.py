"""The page in a real browser, from a file, without a network."""

from __future__ import annotations

import pytest
from tests.report.screen import click, open_page, requested, show, wait, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = """
return ['quality', 'shift'].every(
  (id) => document.querySelector(`#${id} .main-svg .scatterlayer path.js-line`))
"""
CHART_FITS = """
const box = document.querySelector('#quality')
const drawn = box.querySelector('.main-svg').getBoundingClientRect().width
return Math.abs(drawn - box.clientWidth) <= 1
"""


@pytest.fixture
def page(browser, report):
    """The report, freshly opened on a wide light screen, with its charts drawn."""
    open_page(browser, report)
    wait(browser, DRAWN)
    return browser


def background(browser):
    return browser.execute_script(
        "return getComputedStyle(document.querySelector('#quality .main-svg')).backgroundColor"
    )


def column(browser, number):
    return browser.execute_script(
        "return [...document.querySelectorAll('.sizes tbody:not([hidden]) tr:not(.group)')]"
        ".map((row) => row.cells[arguments[0]].dataset.sort)",
        number,
    )


def test_the_charts_are_drawn_without_an_error_or_a_request(page):
    requests = requested(page)

    assert page.get_log("browser") == []
    assert any(url.startswith("file:") for url in requests)
    assert [u for u in requests if not u.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.parametrize("width", [360, 760, 1400, 1600])
def test_the_page_never_scrolls_sideways(page, width):
    show(page, width=width)
    wait(page, f"return innerWidth === {width}")

    wait(page, "return document.querySelector('#quality').clientWidth < innerWidth")
    wait(page, CHART_FITS)
    wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wider) <= 0


def test_charts_follow_the_scheme_and_paper_is_always_light(page):
    light, dark = "rgb(255, 255, 255)", "rgb(26, 29, 34)"
    assert background(page) == light

    show(page, scheme="dark")
    wait_until(page, lambda: background(page) == dark)
    show(page, scheme="dark", media="print")
    wait_until(page, lambda: background(page) == light)
    show(page, scheme="light")

    assert page.get_log("browser") == []


def test_choosing_a_measure_redraws_the_chart_and_the_table(page):
    title = "return document.querySelector('#quality .ytitle').textContent"
    line = "return document.querySelector('#quality .scatterlayer path.js-line').getAttribute('d')"
    before = page.execute_script(line)

    click(page, ".switch input[value='1']")

    wait(page, f"{title}.startsWith('neighbor_recall@10')")
    assert page.execute_script(line) != before
    shown = "return [...document.querySelectorAll('.sizes tbody')].map((body) => body.hidden)"
    assert page.execute_script(shown) == [True, False, True]
    assert page.get_log("browser") == []


def test_clicking_a_heading_sorts_by_it_and_again_the_other_way(page):
    heading = ".sizes thead th:nth-child(6)"
    state = f"return document.querySelector('{heading}').getAttribute('aria-sort')"

    click(page, f"{heading} button")
    rising, first = [int(size) for size in column(page, 5)], page.execute_script(state)
    click(page, f"{heading} button")
    falling, second = [int(size) for size in column(page, 5)], page.execute_script(state)

    assert len(rising) == 30
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert (first, second) == ("ascending", "descending")


def test_hovering_a_marker_shows_its_figures(page):
    page.execute_script(
        "const box = document.querySelector('#quality');"
        "const at = box.data.findIndex((trace) => trace.name === 'int8');"
        "Plotly.Fx.hover(box, [{curveNumber: at, pointNumber: 0}])"
    )

    text = wait(
        page, "return document.querySelector('#quality .hoverlayer .hovertext')?.textContent"
    )
    assert "768 numbers, int8" in text
    assert "n = 225" in text


def test_a_chart_is_saved_as_a_file(page, tmp_path):
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)

    click(page, "button.save[data-chart='shift']")

    saved = tmp_path / "matryo-shift.svg"
    wait_until(page, saved.exists)
    assert "score at full width" in saved.read_text("utf-8")
    assert page.get_log("browser") == []


def test_after_printing_the_charts_fill_the_page_again(page):
    page.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})

    wait(page, CHART_FITS)
    assert page.get_log("browser") == []
