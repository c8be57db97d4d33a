"""Every page in light and dark, on a desk and on a phone: readable, reachable, nothing cut off."""

import re

import pytest
from playwright.sync_api import Page, expect

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


def test_all_settings_and_a_reason_are_readable(tab, violations):
    page = tab("?r=32&weight_decay=0.1")
    page.get_by_text("All other settings").click()
    page.get_by_role("combobox", name="use_dora").wait_for()
    rank = page.locator("details.reason").filter(has_text="Rank of the adapter")
    rank.locator("summary").press("Enter")
    expect(rank.get_by_text("acceptable:")).to_be_visible()
    assert flaws(page, violations) == []


def test_what_opens_beside_start_is_readable(tab, violations):
    page = tab()
    page.get_by_role("button", name="Other ways").click()
    ways = {"Race rates": "Start the race", "Ablation": "Start the ablation", "Elsewhere": "Start there"}
    for name, held in ways.items():
        page.get_by_text(name, exact=True).click()
        expect(page.get_by_role("button", name=held)).to_be_visible()
        settle(page)
        page.mouse.move(0, 0)  # what is under the mouse shows its help
        assert flaws(page, violations) == [], name
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=held)).to_be_hidden()


def test_a_search_leaves_the_settings_that_have_the_word(tab):
    page = tab()
    page.get_by_text("All other settings").click()
    box = page.get_by_role("textbox", name="Search settings")
    box.fill("warm")
    box.press("Enter")
    expect(page.get_by_role("combobox", name="use_dora")).to_have_count(0)
    expect(page.get_by_role("textbox", name="warmup_steps")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_verdict_and_action_stay_on_the_screen(tab, width):
    page = tab(width=width)
    seen = []
    for far in (0, 500, 100_000):
        page.evaluate("(far) => document.querySelector('[data-testid=\"stMain\"]').scrollTo(0, far)", far)
        page.wait_for_timeout(300)
        verdict = page.get_by_role("heading", name="Fits").bounding_box()
        start = page.get_by_role("button", name="Start", exact=True).bounding_box()
        seen.append(verdict["y"] >= 50 and start["y"] + start["height"] <= 800)
    assert seen == [True, True, True]


def test_a_value_is_edited_where_it_stands(tab):
    page = tab("?model=meta-llama%2FLlama-3.1-8B&gpu=GeForce+RTX+3090")
    verdict = page.get_by_role("heading", name="with LoRA")
    before = verdict.inner_text()
    rank = page.get_by_role("combobox", name="r", exact=True)
    rank.fill("48")
    rank.press("Enter")
    expect(verdict).not_to_have_text(before)
    expect(page.get_by_text("moved with it")).to_be_visible()
    expect(page).to_have_url(re.compile("[?&]r=48"))
    rank.press("Escape")  # of a closed list
    expect(rank).to_have_value("48")
    page.get_by_role("button", name="Undo").click()
    expect(verdict).to_have_text(before)
    expect(page).not_to_have_url(re.compile("[?&]r="))


def test_a_typed_number_offers_its_cards(tab):
    page = tab("?model=meta-llama%2FLlama-3.1-8B&gpu=3060")
    page.get_by_role("button", name="GeForce RTX 3060 12 GB").click()
    expect(page.get_by_role("heading", name="with QLoRA")).to_be_visible()
    expect(page.get_by_role("combobox", name="Device", exact=True)).to_have_value("GeForce RTX 3060 12 GB")


def test_the_start_is_visible_without_scrolling(tab):
    box = tab().get_by_role("button", name="Start", exact=True).bounding_box()
    assert box["y"] + box["height"] < 800


def test_the_first_page_waits_for_no_chart_library(tab):
    files = tab().evaluate("() => performance.getEntriesByType('resource').map(entry => entry.name)")
    assert files
    assert not [name for name in files if "Plotly" in name]


def test_every_input_is_reached_by_tab(tab):
    page = tab()
    page.get_by_text("More options").click()
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
    for wanted in (
        "Model",
        "Device",
        "Count",
        "Data",
        "Task",
        "Goal",
        "Rules",
        "Start",
        "learning_rate",
        "optim",
        "All other",
    ):
        assert wanted in names
