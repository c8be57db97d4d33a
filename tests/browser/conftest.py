"""A real server on a free port and a real Chromium: one of each for every worker of pytest, shared by all files.

A browser test asks for ``tab`` and looks at pages of the app::

    def test_the_runs_page_says_that_there_is_none(tab):
        page = tab("runs", width=390, scheme="dark")
        expect(page.get_by_text("No runs yet")).to_be_visible()

- ``tab(path, width=1280, scheme="light")`` opens a page that shows its results; what the console reports as an error
  fails the test. A test that provokes errors empties ``tab.errors``.
- ``server`` has the address (``url``) and the folder of the runs (``runs``, for a ``Store``), and can be killed and
  started again. A file begins with no runs and no uploads, and what it made is ended and removed after its last test:
  make runs in a fixture of the module, or use those of an earlier test of the file.
- ``violations(page)`` returns what axe finds.

A server and its first page cost several times what a further page does: look at one page as often as a
question allows, and start no server of your own.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from scripts.browser import settle
from specs.paths import REPO
from trainer.runs.storage import database
from trainer.runs.store import Store

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


class Server:
    """The app as ``streamlit run`` serves it, on runs of its own."""

    def __init__(self, runs: Path, token: str = "off") -> None:  # noqa: S107 - switched off
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.runs = runs
        self.token = token
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={self.port}"]
        with (self.runs.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--server.headless=true"],
                cwd=REPO,
                env={**os.environ, "LORAFIT_RUNS": str(self.runs), "LORAFIT_TOKEN": self.token},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1)  # noqa: S310 - our own server
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(self.log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end_runs(self) -> None:
        """Stop what still trains: workers outlive the server, and would outlive the tests."""
        store = Store(self.runs)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and (busy := [run for run in store.runs() if not run.is_over]):
            for run in busy:
                store.request_stop(run.id)
            time.sleep(0.2)

    def forget_runs(self) -> None:
        """End every run, and remove all runs and uploads."""
        self.end_runs()
        with closing(sqlite3.connect(self.runs / database.FILE, isolation_level=None)) as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("DELETE FROM runs")
        for folder in self.runs.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)

    @property
    def log(self) -> str:
        return (self.runs.parent / "server.log").read_text()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("app") / "runs")
    yield started
    started.kill()


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Iterator[Server]:
    """Lend the server of this worker to one file."""
    yield shared_server
    shared_server.forget_runs()


@pytest.fixture(scope="session")
def chromium(shared_server: Server) -> Iterator[BrowserContext]:
    """Start Chromium with one page that stays open.

    The pages after it find their scripts compiled in its process: 1.5 s of processor time each instead of 2.5.
    """
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"Chromium is missing at {CHROMIUM}, and CI=true demands it")
        pytest.skip(f"Chromium is missing at {CHROMIUM}; install it to run the browser tests")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        context.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)  # two workers share the cores with a server each
        context.new_page().goto(f"{shared_server.url}/_stcore/health")
        yield context
        browser.close()


@pytest.fixture
def tab(chromium: BrowserContext, server: Server) -> Iterator[Callable[..., Page]]:
    """Open pages of the app; console errors fail the test."""
    pages, errors = [], []

    def opened(path: str = "", *, width: int = 1280, scheme: str = "light") -> Page:
        page = chromium.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/{path}")
        settle(page)
        return page

    opened.errors = errors
    yield opened
    for page in pages:
        page.close()
    chromium.clear_cookies()
    assert not errors


def is_error(message) -> bool:
    """Return whether a console message is an error of the app.

    Streamlit looks for its health endpoint below a page's own address first, and gets a 404.
    """
    return message.type == "error" and "404" not in message.text


@pytest.fixture
def violations() -> Callable[[Page], list[str]]:
    """Return axe's findings on a page as readable lines."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def found(page: Page) -> list[str]:
        response = axe.run(page).response
        return [
            f"{entry['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for entry in response["violations"]
            for node in entry["nodes"]
        ]

    return found
