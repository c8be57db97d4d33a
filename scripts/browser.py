"""The app in Chromium, for what measures it or takes its picture: a server on a free port, and when a page is ready."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page

from specs import RunError, paths

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_LOOKS_AS_IT_WILL = """
() => document.querySelector('[data-test-script-state="notRunning"]')
   && [...document.querySelectorAll('[data-testid="stSkeleton"], [data-testid="stSpinner"], [data-stale="true"]')]
        .every(element => element.offsetParent === null)
   && document.getAnimations().every(
        fading => fading.playState !== "running" || fading.effect.getTiming().iterations === Infinity)
"""
"""Streamlit fades what an older run of the page left, back in as well as out."""


def require_chromium() -> None:
    """Refuse to go on without Chromium.

    Raises:
        RunError: If there is none.
    """
    if not Path(CHROMIUM).exists():
        raise RunError("Chromium", f"must be installed at {CHROMIUM}", None, "Set CHROMIUM to its path")


def settle(page: Page) -> None:
    """Wait until a page shows its results, in their final colours."""
    page.locator('[data-testid="stMain"] [data-testid="stElementContainer"]').first.wait_for(timeout=60_000)
    page.wait_for_function(_LOOKS_AS_IT_WILL, timeout=120_000)


def choose(page: Page, box: Locator, value: str) -> None:
    """Choose a value of a list, on a page that shows its results: a new run of the page closes an open list."""
    settle(page)
    box.click()
    box.fill(value)
    page.get_by_role("option", name=value, exact=True).click()


@contextmanager
def served() -> Iterator[str]:
    """Serve the app on a free port and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.headless=true"]
    environment = {**os.environ, "LORAFIT_TOKEN": "off"}
    process = subprocess.Popen(command, cwd=paths.REPO, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=1)  # noqa: S310 - our own server
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
