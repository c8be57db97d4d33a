"""Takes the screenshots for the README: every page in light, in dark and on a phone, into docs/screenshots."""

import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from scripts.browser import CHROMIUM, require_chromium, served, settle
from specs import RunError, paths
from trainer.runs.store import Store

FOLDER = paths.REPO / "docs" / "screenshots"
LLAMA = "model=meta-llama%2FLlama-3.1-8B&gpu=GeForce+RTX+4090"
PAGES = {
    "plan": f"?{LLAMA}",
    "plan-reasons": f"?{LLAMA}&reasons=true",
    "compare": f"compare?{LLAMA}",
    "compare-step": f"compare?{LLAMA}&show=One+step",
    "compare-heat-map": f"compare?{LLAMA}&show=Batch+and+length",
    "compare-devices": f"compare?{LLAMA}&show=Devices+needed",
    "runs": "runs",
    "accuracy": "accuracy",
    "learn": "learn",
    "learn-quantization": "learn?lesson=Quantization",
}
VIEWS = {
    "light": (1280, 800, "light"),
    "dark": (1280, 800, "dark"),
    "phone": (390, 844, "light"),
}


def main() -> int:
    """Serve the app with the runs of this machine, take every screenshot, and return the exit status."""
    try:
        require_chromium()
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = dict(PAGES)
    runs = Store(paths.runs()).runs()
    if runs:
        pages["run"] = f"runs?run={max(runs, key=lambda run: run.step).id}"
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, path in pages.items():
            for view in VIEWS:
                print(take(browser, f"{url}/{path}", FOLDER / f"{name}-{view}.png", view).relative_to(paths.REPO))
        browser.close()
    return 0


def take(browser: Browser, url: str, target: Path, view: str) -> Path:
    """Write the screenshot of one page in one view and return its path."""
    width, height, scheme = VIEWS[view]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    settle(page)
    page.wait_for_timeout(800)
    page.screenshot(path=target)
    context.close()
    return target


if __name__ == "__main__":
    sys.exit(main())
