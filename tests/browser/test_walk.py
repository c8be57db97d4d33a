"""The whole path as a newcomer goes it, and everything that must not disturb a run."""

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from scripts.browser import settle
from trainer.runs.contract import Phase, Run, State
from trainer.runs.store import Store

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LONG = "?method=QLoRA+%284-bit%29&max_steps=5000&logging_steps=1&per_device_train_batch_size=1&max_length=64"


@pytest.fixture(scope="module")
def run_id() -> dict[str, str]:
    """The run that the first test starts and the others look at."""
    return {}


def steps(page: Page) -> int:
    found = re.search(r"training ([\d,]+)/", page.locator('[data-testid="stMain"]').inner_text())
    return int(found[1].replace(",", "")) if found else 0


def chart(page: Page):
    return page.get_by_role("figure", name=re.compile("Loss over steps"))


def wait_for_step(page: Page, wanted: int, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while steps(page) < wanted:
        assert time.monotonic() < deadline, page.locator('[data-testid="stMain"]').inner_text()
        page.wait_for_timeout(300)


def wait_for(server, run_id: str, condition: Callable[[Run], bool], seconds: float = 300) -> Run:
    """Wait until something is true of a run, whether or not a page shows it."""
    store, deadline = Store(server.runs), time.monotonic() + seconds
    while not condition(run := store.run(run_id)):
        assert time.monotonic() < deadline, (run.state, run.phase, run.step, run.error)
        time.sleep(0.1)
    return run


def stop(page: Page, server, run_id: str) -> Run:
    """Stop a run from its page; the same button then says that the prompts are not worth the wait."""
    page.get_by_role("button", name="Stop and save").click()
    wait_for(server, run_id, lambda run: run.phase is Phase.EVALUATING)
    Store(server.runs).request_stop(run_id)
    expect(page.get_by_text("stopped", exact=True)).to_be_visible(timeout=240_000)
    return Store(server.runs).run(run_id)


def test_one_click_starts_a_run_with_a_live_chart(tab, run_id):
    page = tab(LONG)
    page.get_by_role("button", name="Start", exact=True).dblclick()
    page.wait_for_url(re.compile(r"/runs\?run="))
    run_id["id"] = re.search(r"run=([\w-]+)", page.url)[1]
    expect(chart(page)).to_be_visible(timeout=240_000)
    wait_for_step(page, 3)
    points = page.locator(".scatterlayer .trace .points path")
    expect(points.nth(2)).to_be_attached(timeout=240_000)


def test_a_double_click_started_one_run(server, run_id):
    assert [run.id for run in Store(server.runs).runs()] == [run_id["id"]]


def test_reload_and_a_second_tab_show_the_same_run(tab, run_id):
    first, second = tab(f"runs?run={run_id['id']}&smoothing=0.9&log=true"), tab(f"runs?run={run_id['id']}")
    first.reload()
    settle(first)
    expect(chart(first)).to_be_visible()
    expect(chart(second)).to_be_visible()
    expect(first.get_by_role("slider", name="Smoothing")).to_have_value("0.9")


def test_what_was_chosen_to_be_seen_outlives_every_update(tab, run_id):
    page = tab(f"runs?run={run_id['id']}")
    page.get_by_text("Log scale", exact=True).click()
    page.get_by_text("gradient norm", exact=True).click()
    drawn = page.get_by_role("figure", name=re.compile("Gradient norm over steps"))
    expect(drawn).to_be_visible()
    before = drawn.get_attribute("aria-label")
    wait_for_step(page, steps(page) + 1)
    expect(drawn).not_to_have_attribute("aria-label", before or "")
    expect(page.get_by_role("switch", name="Log scale")).to_be_checked()
    assert "log=true" in page.url
    assert "quantity=gradient+norm" in page.url


def test_a_killed_server_disturbs_neither_run_nor_page(tab, server, run_id):
    page = tab(f"runs?run={run_id['id']}")
    before = Store(server.runs).run(run_id["id"]).step
    server.kill()
    alone = wait_for(server, run_id["id"], lambda run: run.step > before).step
    server.start()
    wait_for_step(page, alone + 1)
    assert Store(server.runs).run(run_id["id"]).state is State.RUNNING
    tab.errors.clear()  # while the server was dead, the page said so


def test_stop_saves_and_resume_goes_on(tab, server, run_id):
    page = tab(f"runs?run={run_id['id']}")
    done = stop(page, server, run_id["id"]).step
    page.get_by_role("button", name="Resume").click()
    wait_for_step(page, done + 1)
    stop(page, server, run_id["id"])


def test_a_finished_page_polls_no_more_and_is_still_there_after_a_reload(tab, run_id):
    page = tab(f"runs?run={run_id['id']}")
    page.reload()
    settle(page)
    expect(page.get_by_text("stopped", exact=True)).to_be_visible()
    expect(chart(page)).to_be_visible()


def test_a_deep_link_restores_the_plan(tab):
    page = tab("?model=meta-llama%2FLlama-3.1-8B&gpu=24+GiB&method=QLoRA+%284-bit%29&r=64")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("meta-llama/Llama-3.1-8B")
    expect(page.get_by_role("heading", name="with QLoRA")).to_be_visible()
    expect(page.get_by_role("button", name="Export", exact=True)).to_be_enabled()


def test_what_is_chosen_travels_from_page_to_page(tab):
    page = tab("?model=meta-llama%2FLlama-3.1-8B&gpu=GeForce+RTX+4090&method=QLoRA+%284-bit%29&r=64")
    verdict = page.get_by_role("heading", name="with QLoRA").inner_text()
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_text("meta-llama/Llama-3.1-8B", exact=True).first).to_be_visible()
    expect(page.get_by_role("heading", name="with QLoRA")).to_have_text(verdict)
    page.get_by_role("link", name="Plan").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("meta-llama/Llama-3.1-8B")
    expect(page.get_by_role("heading", name="with QLoRA")).to_have_text(verdict)


def test_a_bad_upload_is_refused_in_one_sentence(tab, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{not json\n")
    page = tab()
    page.get_by_role("button", name="Use your own file").click()
    page.locator('input[type="file"]').set_input_files(broken)
    alert = page.get_by_role("alert").filter(has_text="row")
    expect(alert.first).to_be_visible()
    assert "Traceback" not in page.content()
