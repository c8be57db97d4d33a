"""Every page in light and dark, on a desk and on a phone: readable, reachable, nothing cut off."""

import pytest

PAGES = ["", "compare", "runs", "accuracy", "learn"]
pytestmark = pytest.mark.browser


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_in_light(tab, violations, path):
    assert violations(tab(path)) == []


@pytest.mark.parametrize("path", PAGES)
def test_a_dark_phone_page_is_readable_and_scrolls_down_only(tab, violations, path):
    page = tab(path, width=390, scheme="dark")
    widths = page.evaluate(
        """() => { const main = document.querySelector('[data-testid="stMain"]');
                   return [main.scrollWidth, main.clientWidth, document.documentElement.scrollWidth]; }"""
    )
    assert widths[0] <= widths[1]
    assert widths[2] <= 390
    assert violations(page) == []


def test_the_start_is_visible_without_scrolling(tab):
    box = tab().get_by_role("button", name="Start", exact=True).bounding_box()
    assert box["y"] + box["height"] < 800


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
