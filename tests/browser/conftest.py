"""A real server on a free port and a real Chromium."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from specs.paths import REPO
from tests.browser.waiting import settled
from trainer.runs.store import Store

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


class Server:
    """The app as ``streamlit run`` serves it, on runs of its own."""

    def __init__(self, runs: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.runs = runs
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={self.port}"]
        with (self.runs.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--server.headless=true"],
                cwd=REPO,
                env={**os.environ, "LORAFIT_RUNS": str(self.runs)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
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
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (busy := [run for run in store.runs() if not run.is_over]):
            for run in busy:
                store.request_stop(run.id)
            time.sleep(1)

    @property
    def log(self) -> str:
        return (self.runs.parent / "server.log").read_text()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("app") / "runs")
    yield started
    started.kill()
    started.end_runs()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"Chromium is missing at {CHROMIUM}, and CI=true demands it")
        pytest.skip(f"Chromium is missing at {CHROMIUM}; install it to run the browser tests")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """Open a page of the app in a browser window of its own; console errors fail the test."""
    contexts, errors = [], []

    def opened(path: str = "", *, width: int = 1280, scheme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/{path}")
        settled(page)
        return page

    opened.errors = errors
    yield opened
    for context in contexts:
        context.close()
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
        response = json.loads(json.dumps(axe.run(page).response))
        return [
            f"{entry['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for entry in response["violations"]
            for node in entry["nodes"]
        ]

    return found
