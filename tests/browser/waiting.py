"""When a page is ready to be looked at."""

from playwright.sync_api import Page


def settled(page: Page) -> None:
    """Wait until the page shows its results."""
    page.locator('[data-testid="stMain"] [data-testid="stElementContainer"]').first.wait_for()
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid="stSkeleton"], [data-testid="stSpinner"]')]
                .every(element => element.offsetParent === null)
            && document.querySelector('[data-test-script-state="notRunning"]')"""
    )
