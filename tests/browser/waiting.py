"""When a page is ready to be looked at."""

from playwright.sync_api import Page

_LOOKS_AS_IT_WILL = """
() => document.querySelector('[data-test-script-state="notRunning"]')
   && [...document.querySelectorAll('[data-testid="stSkeleton"], [data-testid="stSpinner"], [data-stale="true"]')]
        .every(element => element.offsetParent === null)
   && document.getAnimations().every(
        fading => fading.playState !== "running" || fading.effect.getTiming().iterations === Infinity)
"""
"""Streamlit fades what an older run of the page left, back in as well as out."""


def settled(page: Page) -> None:
    """Wait until the page shows its results, in their final colours."""
    page.locator('[data-testid="stMain"] [data-testid="stElementContainer"]').first.wait_for()
    page.wait_for_function(_LOOKS_AS_IT_WILL)
