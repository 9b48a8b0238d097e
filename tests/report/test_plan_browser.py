"""The page of a plan in a real browser, from a file, without a network."""

from __future__ import annotations

import pytest
from tests.report.screen import click, open_page, requested, show, wait, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DOTS = "document.querySelectorAll('#candidates .main-svg .scatterlayer path.point').length"
CHART_FITS = """
const box = document.querySelector('#candidates')
const drawn = box.querySelector('.main-svg').getBoundingClientRect().width
return box.clientWidth < innerWidth && Math.abs(drawn - box.clientWidth) <= 1
"""
TITLE = "document.querySelector('#candidates .xtitle').textContent"


@pytest.fixture
def page(browser, plan_report):
    """The report of a plan, freshly opened on a wide light screen, with its picture drawn."""
    open_page(browser, plan_report)
    wait(browser, f"return {DOTS} > 0")
    return browser


def test_the_picture_is_drawn_without_an_error_or_a_request(page, plan):
    requests = requested(page)

    # a dot for every candidate and a ring for every choice
    drawn = len(plan["candidates"]) + len(plan["choices"])
    assert page.execute_script(f"return {DOTS}") == drawn
    assert page.get_log("browser") == []
    assert any(url.startswith("file:") for url in requests)
    assert [u for u in requests if not u.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.parametrize("width", [360, 760, 1400])
def test_the_page_never_scrolls_sideways(page, width):
    show(page, width=width)
    wait(page, f"return innerWidth === {width}")
    wait(page, CHART_FITS)
    click(page, "summary")

    wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wider) <= 0
    # nor does anything reach out of the box it is in
    out = (
        "return [...document.querySelectorAll('.choices .tile')].filter("
        "(tile) => tile.scrollWidth > tile.clientWidth).length"
    )
    assert page.execute_script(out) == 0


def test_choosing_a_cost_redraws_the_picture(page):
    assert page.execute_script(f"return {TITLE}") == "bytes per query (modelled)"

    click(page, ".switch input[value='1']")

    wait(page, f"return {TITLE} === 'latency (modelled)'")
    click(page, ".switch input[value='2']")
    wait(page, f"return {TITLE} === 'RAM (modelled)'")
    assert page.get_log("browser") == []


def test_the_picture_follows_the_scheme(page):
    background = "getComputedStyle(document.querySelector('#candidates .main-svg')).backgroundColor"
    assert page.execute_script(f"return {background}") == "rgb(255, 255, 255)"

    show(page, scheme="dark")

    wait_until(page, lambda: page.execute_script(f"return {background}") == "rgb(26, 29, 34)")
    assert page.get_log("browser") == []


def test_hovering_a_dot_shows_its_figures(page):
    page.execute_script(
        "const box = document.querySelector('#candidates');"
        "const at = box.data.findIndex((trace) => trace.name === 'failed');"
        "Plotly.Fx.hover(box, [{curveNumber: at, pointNumber: 0}])"
    )

    text = wait(
        page, "return document.querySelector('#candidates .hoverlayer .hovertext')?.textContent"
    )
    assert "256@binary:50,256:10" in text
    assert "96.0% on the ordering queries" in text
    assert "(modelled)" in text
