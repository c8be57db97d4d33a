"""The data's own lengths: what is priced, and how many rows a length cuts."""

import dataclasses

import pytest

from advisor import advise
from advisor.rules import RULE_SETS
from advisor.search import drafted
from tests.advisor.pricing import price_of, situation

TOKENS = (100, 300, 700)
LENGTHS = (*[100] * 90, *[300] * 7, 400, 500, 700)


@pytest.mark.parametrize(
    ("tokens", "changes", "priced"),
    [
        pytest.param(TOKENS, {}, 700, id="longest row"),
        pytest.param((100, 300, 5_000), {}, 1_024, id="rows are truncated"),
        pytest.param(TOKENS, {"packing": True}, 1_024, id="packed rows fill max_length"),
        pytest.param(None, {}, 1_024, id="unknown data"),
        pytest.param((1, 2, 3), {}, 8, id="no plan is shorter than 8 tokens"),
    ],
)
def test_memory_is_priced_for_the_longest_row_unless_rows_are_packed(tokens, changes, priced):
    asked = situation(dataset_tokens=tokens)
    plan = dataclasses.replace(drafted(asked, "lora", RULE_SETS["evidence"]), max_length=1_024, **changes)
    assert asked.as_priced(plan).max_length == priced
    assert bool(asked.length_note(plan)) == (priced < 1_024)


def test_a_longer_max_length_than_the_longest_row_costs_nothing():
    rows = {"dataset_rows": 5_000, "dataset_tokens": TOKENS}
    used = [
        advise(asked, price=price_of(asked)).estimate.used_bytes
        for length in (704, 4_096)
        if (asked := situation(pins={"method": "qlora", "max_length": length}, **rows))
    ]
    assert used[0] == used[1]


@pytest.mark.parametrize(
    ("values", "length", "words"),
    [
        pytest.param({"dataset_rows": 100, "row_lengths": LENGTHS}, 300, "3 of 100 rows are truncated", id="counted"),
        pytest.param({"dataset_rows": 100, "row_lengths": LENGTHS}, 500, "1 of 100 rows is truncated", id="one"),
        pytest.param({"dataset_rows": 100, "row_lengths": LENGTHS}, 700, "no row is truncated", id="none"),
        pytest.param(
            {"dataset_rows": 9_000, "row_lengths": LENGTHS}, 300, "about 270 of 9,000 rows are truncated", id="a sample"
        ),
        pytest.param(
            {"dataset_rows": 9_000, "row_lengths": (1,) * 100, "dataset_tokens": (1, 1, 700)},
            300,
            "about 1 of 9,000 rows is truncated",
            id="the longest lies beyond the sample",
        ),
        pytest.param({}, 300, "up to 5% of the rows are truncated", id="three lengths alone"),
        pytest.param({}, 200, "5 to 50% of the rows are truncated", id="below the 95th percentile"),
        pytest.param({}, 50, "more than half of the rows are truncated", id="below the median"),
        pytest.param({"dataset_tokens": None}, 50, "longer rows are truncated", id="unknown data"),
    ],
)
def test_how_many_rows_a_length_truncates(values, length, words):
    assert situation(**{"dataset_tokens": TOKENS, **values}).truncated(length) == words


def test_the_lever_and_the_setting_say_how_many_rows_are_cut():
    asked = situation(dataset_rows=100, dataset_tokens=(400, 1_000, 2_000), row_lengths=(*[400] * 94, *[1_000] * 6))
    result = advise(asked, price=price_of(asked))
    lever = next(lever for lever in result.levers if lever.field == "max_length")
    assert (lever.after, lever.cost) == (512, "6 of 100 rows are truncated")
    assert "1,000 tokens" in result.advised("max_length").reason
