"""How long a person waits: for a page, for new numbers, for one estimate, for advice, for a file to be examined.

``python -m scripts.bench``, or ``make bench``. Prints figures and judges none: they are those of this machine, and of
what else it does. Compare two states of the code in turns, on one machine.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from advisor import Situation, advise
from catalog import gpus, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from estimator.replay.replay import Replay
from estimator.tape import library
from scripts.browser import CHROMIUM, require_chromium, served, settle
from specs import FinetunePlan, LorafitError, paths
from trainer.data.doctor import examined
from trainer.data.source import DataSource
from trainer.data.tokenizer import FolderTokenizer

MODEL, CARD = "meta-llama/Llama-3.1-8B", "GeForce RTX 4090"
REPEATS = 20
CHANGES = 3
"""How often a row of the plan is changed and undone."""
FIRST_VISITS = 5
ROWS = 20_000
ROWS_OF_PLAN = {
    "method": "QLoRA (4-bit)",
    "r": "32",
    "lora_alpha": "64",
    "target_modules": "q_proj",
    "max_length": "512",
    "per_device_train_batch_size": "2",
    "learning_rate": "1e-3",
    "num_train_epochs": "5",
    "gradient_checkpointing": "yes",
    "optim": "sgd",
}
"""The rows of the plan card, each with a value to choose and to undo."""

_WATCH = """() => {
    const main = document.querySelector('[data-testid="stMain"]');
    window.changes = [];
    window.verdicts = [];
    let clicked = null;
    addEventListener('pointerdown', () => { clicked = performance.now(); }, {capture: true, once: true});
    if (window.observer) window.observer.disconnect();
    window.observer = new MutationObserver(records => {
        if (clicked === null) return;
        const now = performance.now() - clicked, strip = document.querySelector('.st-key-strip');
        window.changes.push(now);
        if (records.some(record => strip && strip.contains(record.target))) window.verdicts.push(now);
    });
    window.observer.observe(main, {subtree: true, childList: true, characterData: true});
}"""
"""Notes when the page changed after a click, and when its verdict did; the last change brings the last number."""

_PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> int:
    """Measure everything and print a line for each figure; return the exit status."""
    print(f"{'':<48}{'median':>10}{'95th percentile':>18}{'n':>6}")
    try:
        require_chromium()
        for name, milliseconds in itertools.chain(computed(), seen()):
            show(name, milliseconds)
        print(f"{'rows of a data set examined':<48}{examined_rows():>7,.0f} rows/s")
    except LorafitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def show(name: str, milliseconds: Sequence[float]) -> None:
    """Print one figure."""
    most = statistics.quantiles(milliseconds, n=20, method="inclusive")[-1]
    print(f"{name:<48}{statistics.median(milliseconds):>7.1f} ms{most:>15.1f} ms{len(milliseconds):>6}", flush=True)


def timed(act: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each repetition; the first time, which warms up, is left out."""
    act()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - begun))
    return found


def computed() -> Iterator[tuple[str, list[float]]]:
    """Time what the pages compute."""
    model, gpu = models.find(MODEL), gpus.find(CARD)
    plan = FinetunePlan.for_method("qlora", MODEL, bf16=True, gradient_checkpointing=True, max_length=2048)
    situation = Situation(model=model, gpu=gpu, dataset_rows=10_000)
    tape = library.tape_for(model, plan, gpu=gpu)

    def price(one: FinetunePlan) -> MemoryEstimate:
        return pricing.price(model, one, gpu)

    def at_least(one: FinetunePlan) -> int:
        return pricing.least_used_bytes(model, one, gpu)

    yield "one estimate, its tape at hand", timed(lambda: price(plan))
    yield "the allocator's replay of one plan", timed(lambda: Replay(tape, plan, gpu).reservation)
    yield "advice", timed(lambda: advise(situation, price=price, at_least=at_least))


def seen() -> Iterator[tuple[str, list[float]]]:
    """Time what a person sees in Chromium."""
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        first_visit(browser, url)  # the server imports what it needs
        visits = [first_visit(browser, url) for _ in range(FIRST_VISITS)]
        yield "first contentful paint, nothing cached", [painted for painted, _ in visits]
        yield "Start visible, nothing cached", [visible for _, visible in visits]
        page = browser.new_page()
        page.goto(url)
        settle(page)
        for row, value in ROWS_OF_PLAN.items():
            page.goto(f"{url}/?{urlencode({'model': MODEL, 'gpu': CARD})}")
            settle(page)
            changed(page, row, value)  # what is priced once is remembered, as for a person who goes back and forth
            found = [one for _ in range(CHANGES) for one in changed(page, row, value)]
            if verdicts := [verdict for verdict, _ in found if verdict]:
                yield f"{row} changed to the new verdict", verdicts
            yield f"{row} changed to the last new number", [last for _, last in found]
        browser.close()


def first_visit(browser: Browser, url: str) -> tuple[float, float]:
    """Return the milliseconds until a newcomer sees anything, and until the start button is there."""
    page = browser.new_page()
    page.goto(url, wait_until="commit")
    page.get_by_role("button", name="Start", exact=True).wait_for()
    visible, painted = page.evaluate("() => performance.now()"), page.evaluate(_PAINTED)
    page.close()
    return painted, visible


def changed(page: Page, row: str, value: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Choose a value in a row of the plan and undo it; return what ``_until_settled`` does of each."""
    chosen = _until_settled(page, _choice(page, row, value))
    # What holds several choices stays open and hides what is behind it; elsewhere, Escape clears what was chosen.
    page.keyboard.press("Escape" if row == "target_modules" else "Tab")
    settle(page)
    page.wait_for_timeout(200)
    return chosen, _until_settled(page, page.get_by_role("button", name="Undo").first)


def _choice(page: Page, row: str, value: str) -> Locator:
    """Open what a row offers, and return the value to click."""
    if row == "target_modules":
        page.locator(".st-key-modules").get_by_role("button").first.click()
        return page.locator(f".st-key-{row}").get_by_text(value, exact=True)
    box = page.locator(f".st-key-{row}").get_by_role("combobox")
    box.click()
    box.fill(value)
    return page.get_by_role("option", name=value, exact=True)


def _until_settled(page: Page, to_click: Locator) -> tuple[float, float]:
    """Click; return the milliseconds until the verdict is new, 0 if it stays, and until the last change of the page."""
    to_click.wait_for()
    page.evaluate(_WATCH)
    to_click.click()
    page.wait_for_function("() => window.changes.length > 0")
    page.wait_for_timeout(400)
    settle(page)
    verdict, last = page.evaluate("() => [window.verdicts.at(-1) ?? 0, window.changes.at(-1)]")
    return float(verdict), float(last)


def examined_rows() -> float:
    """Return how many rows of the demo data are read, rendered, tokenized and checked in a second."""
    lines = paths.demo_data().read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(f"{lines[number % len(lines)]}\n" for number in range(ROWS)), encoding="utf-8")
        begun = time.perf_counter()
        report = examined(DataSource(path=str(file)), FolderTokenizer(paths.demo_model()))
        return report.rows / (time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(main())
