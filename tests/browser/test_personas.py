"""Three people from an empty page to what they came for, in at most 3 fields and 5 clicks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from scripts.browser import settle

pytestmark = pytest.mark.browser

ROWS = "question,answer\nWhat is a tape?,A recorded step.\nWhat is a plan?,All choices of a run.\n"
_COUNT = """() => {
    window.clicks = 0;
    addEventListener('pointerdown', () => { window.clicks += 1; }, {capture: true});
}"""


@dataclass
class Person:
    """Somebody at an empty page, whose clicks the page counts."""

    page: Page
    fields: int = 0

    def fill(self, role: str, name: str, words: str) -> None:
        """Click into a field, type, and press Enter."""
        settle(self.page)
        box = self.page.get_by_role(role, name=name, exact=True)
        box.click()
        box.fill(words)
        box.press("Enter")
        self.fields += 1

    def click(self, role: str, name: str) -> None:
        settle(self.page)
        self.page.get_by_role(role, name=name).first.click()

    def give(self, file: Path) -> None:
        """Choose a file in the dialog that opens; the button that offers it then closes by itself."""
        self.click("button", "Use your own file")
        with self.page.expect_file_chooser() as asked:
            self.page.get_by_role("button", name="Upload", exact=True).click()
        asked.value.set_files(file)
        self.page.wait_for_url("**data=*")
        expect(self.page.get_by_text("The file stays on this machine.")).to_have_count(0)
        self.fields += 1

    def verdict(self, method: str, on: str) -> None:
        expect(self.page.get_by_role("heading", name=f"Fits with {method}")).to_contain_text(on)


@pytest.fixture
def person(tab: Callable[..., Page]) -> Iterator[Person]:
    """Open an empty page; fails if more was asked of the person than the limit."""
    page = tab()
    page.evaluate(_COUNT)
    person = Person(page)
    yield person
    clicks = page.evaluate("() => window.clicks")
    assert 0 < clicks <= 5
    assert person.fields <= 3


def test_a_card_with_12_gb_and_a_csv(person, tmp_path):
    file = tmp_path / "questions.csv"
    file.write_text(ROWS)
    person.fill("combobox", "Device", "3060")
    person.click("button", "GeForce RTX 3060 12 GB")
    person.fill("combobox", "Model", "llama 3.1 8b")
    person.give(file)
    person.verdict("QLoRA (4-bit)", "of 11.8 GiB used")
    expect(person.page.get_by_role("combobox", name="Data")).to_have_value(re.compile("questions.csv"))


def test_two_cards_and_a_mixture(person):
    person.fill("combobox", "Device", "a100 80gb")
    person.fill("spinbutton", "Count", "2")
    person.fill("combobox", "Model", "qwen3-30b-a3b")
    person.verdict("LoRA", "on each of 2 devices")


def test_a_table_for_a_paper(person):
    person.fill("combobox", "Device", "4090")
    person.fill("combobox", "Model", "llama 3.1 8b")
    person.click("link", "Compare")
    person.click("button", "Save")
    settle(person.page)
    with person.page.expect_download() as saved:
        person.page.get_by_role("button", name="LaTeX", exact=True).click()
    written = saved.value.path().read_text()
    assert "\\toprule" in written
    assert "QLoRA" in written
