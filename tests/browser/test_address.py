"""An address in a real browser: numbers that are none reach the page as they were written, and none is used unseen."""

import pytest
from playwright.sync_api import expect

from scripts.browser import choose

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_a_plan_of_an_address_that_is_not_used_starts_only_once_it_is_accepted(tab, violations, width, scheme):
    page = tab("?num_gpus=1e400&r=nan&data=gone.jsonl+(abc123)&modell=gpt2", width=width, scheme=scheme)
    told = (
        page.get_by_role("alert")
        .filter(has_text="Some values in the address of this page are not used")
        .get_by_role("listitem")
    )
    expect(told).to_have_count(4)
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_disabled()
    assert not violations(page)
    page.get_by_role("button", name="Use what is shown").click()
    expect(told).to_have_count(0)
    expect(start).to_be_enabled()
    assert "gone" not in page.url
    assert "modell" not in page.url


def test_what_is_accepted_stays_accepted_while_other_settings_change(tab):
    page = tab("?task=Coding")
    page.get_by_role("button", name="Use what is shown").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    choose(page, page.get_by_role("combobox", name="method"), "QLoRA (4-bit)")
    expect(page.get_by_role("heading", name="with QLoRA (4-bit)")).to_be_visible()
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
