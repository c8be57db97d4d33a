"""The runs page in its states: readable for everybody, and nothing that a person chose is lost."""

import math
import re
import sqlite3

import pytest
from playwright.sync_api import expect

from scripts.browser import settle
from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs.contract import Answer, Phase, State
from trainer.runs.export import RESULT
from trainer.runs.storage import database
from trainer.runs.store import LOG, Store

pytestmark = pytest.mark.browser
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def runs(server):
    """Runs as workers leave them behind: a good one, one whose loss stands still, and one without memory."""
    store = Store(server.runs)

    def made(losses, state, **changes):
        plan = FinetunePlan.for_method("qlora", MODEL, dtype="float32", **changes)
        run = store.create(plan, DataSource(path="data.jsonl"), {"used_bytes": 2**31, "capacity_bytes": 2**31})
        store.claim_next("cpu")
        store.enter(run.id, State.RUNNING, started_at=1.0, phase=Phase.TRAINING, total_steps=len(losses))
        with sqlite3.connect(store.folder / database.FILE) as db:
            points = [(run.id, step, loss) for step, loss in enumerate(losses, 1)]
            db.executemany("INSERT INTO metrics (run_id, step, loss, learning_rate) VALUES (?, ?, ?, 1e-4)", points)
        db.close()
        store.set_answers(run.id, [Answer(prompt="Why?", base="<b>Because</b>", tuned="So.")])
        (store.run_folder(run.id) / RESULT).mkdir()
        (store.run_folder(run.id) / LOG).write_text("a line\n" * 100)
        kind = "out_of_memory" if state is State.FAILED else None
        error = "memory: the run needs more than the device has." if kind else None
        store.enter(run.id, state, finished_at=61.0, phase=Phase.DONE, error=error, error_kind=kind)
        return run.id

    return {
        "good": made([1 + math.exp(-step / 30) for step in range(100)], State.FINISHED),
        "flat": made([2.0] * 100, State.STOPPED, r=8),
        "out of memory": made([2.0], State.FAILED, max_length=2048),
    }


@pytest.mark.parametrize(
    ("shown", "width", "scheme"),
    [
        pytest.param((), 1280, "light", id="the list"),
        pytest.param(("out of memory",), 1280, "light", id="a failed run"),
        pytest.param(("flat",), 390, "dark", id="a stopped run with a diagnosis, on a phone"),
        pytest.param(("good", "flat"), 390, "dark", id="a comparison, on a phone"),
    ],
)
def test_every_state_is_readable_and_scrolls_down_only(tab, violations, runs, shown, width, scheme):
    page = tab("runs?" + "&".join(f"run={runs[name]}" for name in shown), width=width, scheme=scheme)
    assert violations(page) == []
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth")


def test_every_tab_of_a_run_is_readable(tab, violations, runs):
    page = tab(f"runs?run={runs['good']}")
    for name in ("Evaluation", "Chat", "Plan", "Memory", "Share", "Log"):
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.get_by_role("tabpanel", name=name, exact=True)).to_be_visible()
        assert violations(page) == [], name
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.get_by_role("button", name="Markdown")).to_be_visible()
    settle(page)
    assert violations(page) == [], "an open popover"


def test_what_was_chosen_is_in_the_address_and_comes_back(tab, runs):
    page = tab(f"runs?run={runs['good']}&run={runs['flat']}")
    page.get_by_text("learning rate", exact=True).click()
    page.get_by_text("Log scale", exact=True).click()
    expect(page.get_by_role("figure", name=re.compile("Learning rate over steps"))).to_be_visible()
    again = tab(page.url.split("/", 3)[3])
    expect(again.get_by_role("figure", name=re.compile("Learning rate over steps"))).to_be_visible()
    expect(again.get_by_role("switch", name="Log scale")).to_be_checked()
    expect(again.get_by_role("heading", name="Differences")).to_be_visible()


def test_a_click_anywhere_in_a_row_opens_the_run_and_a_deleted_one_comes_back(tab, server, runs):
    page = tab("runs", width=390)
    page.locator(f".st-key-row-{runs['flat']}").get_by_text("last loss").click(force=True)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="More", exact=True)).to_have_count(1)  # those of the list are gone
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("Delete")).click()
    expect(page.get_by_text(re.compile("Deleted SmolLM2"))).to_be_visible()
    expect(page.locator(f".st-key-row-{runs['flat']}")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(f".st-key-row-{runs['flat']}")).to_be_visible()
    assert Store(server.runs).run(runs["flat"]).deleted_at is None


def test_an_upload_without_a_name_is_refused_and_the_token_is_gone(tab, runs):
    page = tab(f"runs?run={runs['good']}")
    page.get_by_role("tab", name="Share").click()
    page.get_by_label("Token", exact=True).fill("hf_neverKeepThis")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("must be owner/name")).to_be_visible()
    settle(page)
    expect(page.get_by_label("Token", exact=True)).to_have_value("")
    assert "hf_neverKeepThis" not in page.content()
