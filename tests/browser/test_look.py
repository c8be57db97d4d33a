"""Every page in light and dark, on a desk and on a phone: readable, reachable, nothing cut off."""

import pytest
from playwright.sync_api import Page

from scripts.browser import settle
from ui.learn.lessons import LESSONS

VIEWS = {"light": 1280, "dark": 390}
"""Colour schemes with the width of the window in which they are looked at."""
pytestmark = pytest.mark.browser


def is_cut_off(page: Page) -> bool:
    """Return whether something reaches beyond the window, so that one had to scroll sideways."""
    return page.evaluate(
        """() => { const main = document.querySelector('[data-testid="stMain"]');
                   return main.scrollWidth > main.clientWidth
                       || document.documentElement.scrollWidth > window.innerWidth; }"""
    )


def flaws(page: Page, violations) -> list[str]:
    """Return what axe finds on a page on a light desk and on a dark phone, and whether it must be scrolled sideways."""
    found = []
    for scheme, width in VIEWS.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)  # colours and sizes change gradually
        settle(page)
        found += [f"{scheme} {width}: {finding}" for finding in violations(page)]
        found += [f"{scheme} {width}: scrolls sideways"] if is_cut_off(page) else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "compare", "runs", "accuracy"])
def test_every_page_and_tab_is_readable_in_light_and_dark_on_desk_and_phone(tab, violations, path):
    page = tab(path)
    names = page.get_by_role("tab").all_inner_texts()
    found = {} if names else {path: flaws(page, violations)}
    for name in names:
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(200)
        settle(page)
        found[name] = flaws(page, violations)
    assert not any(found.values()), found


@pytest.mark.slow
def test_every_lesson_is_readable_in_light_and_dark_on_desk_and_phone(tab, violations):
    page = tab("learn")
    found = {}
    for lesson in LESSONS:
        page.get_by_role("radio", name=lesson, exact=True).check(force=True)
        page.get_by_role("heading", name=lesson, exact=True).wait_for()
        settle(page)
        found[lesson] = flaws(page, violations)
    assert not any(found.values()), found


def test_all_fields_and_reasons_are_readable(tab, violations):
    page = tab("?reasons=true")
    page.get_by_text("Override settings").click()
    page.get_by_label("max_length", exact=True).first.wait_for()
    assert flaws(page, violations) == []


def test_a_phone_shows_the_verdict_and_the_start_first(tab):
    page = tab(width=390)
    verdict = page.get_by_role("heading", name="Fits").bounding_box()
    start = page.get_by_role("button", name="Start", exact=True).bounding_box()
    assert verdict["y"] < start["y"] < start["y"] + start["height"] < 500


def test_the_start_is_visible_without_scrolling(tab):
    box = tab().get_by_role("button", name="Start", exact=True).bounding_box()
    assert box["y"] + box["height"] < 800


def test_the_first_page_waits_for_no_chart_library(tab):
    files = tab().evaluate("() => performance.getEntriesByType('resource').map(entry => entry.name)")
    assert files
    assert not [name for name in files if "Plotly" in name]


def test_every_input_is_reached_by_tab(tab):
    page = tab()
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                """() => { const e = document.activeElement;
                    return e.getAttribute('aria-label') || e.innerText || e.getAttribute('role') || e.tagName; }"""
            )
        )
    names = " | ".join(seen)
    for wanted in ("Model", "Device", "Count", "Data", "Task", "Goal", "Rules", "Recommended", "Start"):
        assert wanted in names
