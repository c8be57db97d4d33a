"""The Data tab in a real browser: uploads, long files, and rows in colour."""

import json

import pytest
from playwright.sync_api import Page, expect

from scripts.browser import settle
from tests.browser.test_look import flaws

pytestmark = pytest.mark.browser

QWEN = "?view=Data&model=Qwen%2FQwen3-0.6B"
PAIRS = "prompt\tchosen\trejected\tid\nWhy?\tSince it is so.\tDunno.\t7\nHow?\tLike this.\tDunno.\t8\n"
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLS = [{"messages": [{"role": "user", "content": f"{n}?"}, CALL], "tools": [TOOL]} for n in range(3)]


def upload(page: Page, name: str, text: str) -> None:
    """Upload a file as a person does, and wait for what the page says about it."""
    page.get_by_role("button", name="Use your own file").click()
    file = {"name": name, "mimeType": "text/plain", "buffer": text.encode()}
    page.locator('input[type="file"]').set_input_files(file)
    page.wait_for_url("**data=*")
    expect(page.locator('input[type="file"]')).to_have_count(0)
    settle(page)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        pytest.param("pairs.tsv", PAIRS, "Worse answer", id="pairs"),
        pytest.param("calls.jsonl", "\n".join(map(json.dumps, CALLS)), "<tool_call>", id="tool calls"),
    ],
)
def test_an_upload_is_shown_as_it_is_learned_in_both_schemes_on_desk_and_phone(tab, violations, name, text, words):
    page = tab(QWEN)
    upload(page, name, text)
    page.get_by_text(words).first.wait_for()
    assert page.get_by_text("[learned]").count() >= 3
    assert flaws(page, violations) == []


def test_a_long_file_is_read_on_and_the_page_follows_by_itself(tab):
    page = tab(QWEN)
    lines = (json.dumps({"prompt": f"Question {n}?", "completion": "word " * 100}) for n in range(30_000))
    upload(page, "long.jsonl", "\n".join(lines))
    page.get_by_text("30,000", exact=True).wait_for()
    expect(page.get_by_text("The rest is being read")).to_have_count(0, timeout=120_000)


def test_choices_about_the_data_stay_in_the_address(tab):
    page = tab(QWEN)
    row = {"role": "assistant", "content": "2", "reasoning_content": "One and one."}
    rows = {"train": [{"messages": [{"role": "user", "content": "1+1?"}, row]}] * 3, "test": [{"text": "a"}]}
    upload(page, "splits.json", json.dumps(rows))
    page.get_by_role("radio", name="Leave it out").check(force=True)
    settle(page)
    page.get_by_text("More options").click()
    page.get_by_role("textbox", name="Questions asked before and after").fill("What is 2+2?")
    page.keyboard.press("Tab")
    page.wait_for_url("**prompts=*")
    settle(page)
    assert "thinking=Leave" in page.url
    page.reload()
    settle(page)
    page.get_by_text("More options").click()
    assert page.get_by_role("textbox", name="Questions asked before and after").input_value() == "What is 2+2?"
    assert page.get_by_role("radio", name="Leave it out").is_checked()
