"""Advice compared with published recipes: same method and fit, at least their targets, similar rate and batch."""

import csv
import re
from pathlib import Path

import pytest

from advisor import advise
from tests.advisor.pricing import at_least_of, price_of, situation

GOLDEN = Path(__file__).parents[1] / "golden"
LEARNING_RATE_FACTOR = 2.5
BATCH_FACTOR = 2


def rows(name):
    with (GOLDEN / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def ends(text):
    """Return the two ends of a range such as 8-16 or 1e-4-5e-4; a single number is both ends."""
    found = re.fullmatch(r"([\d.]+(?:e-\d+)?)(?:-([\d.]+(?:e-\d+)?))?", text)
    return float(found[1]), float(found[2] or found[1])


def named(row):
    return f"{row['id']} {row['source']}" + (f" -- overruled: {row['overruled']}" if row["overruled"] else "")


@pytest.mark.parametrize("row", [pytest.param(row, id=named(row)) for row in rows("recipes.csv")])
def test_advice_agrees_with_the_recipe(row):
    asked = situation(
        model=row["model"],
        gpu=row["gpu"],
        num_gpus=int(row["num_gpus"]),
        dataset_rows=int(row["rows"]) if row["rows"] else None,
        task=row["task"],
        pins={"method": row["pinned_method"]} if row["pinned_method"] else {},
    )
    result = advise(asked, price=price_of(asked), at_least=at_least_of(asked))
    left_out = row["not_compared"].split(";")
    assert result.plan.method == row["method"]
    assert result.fits == (row["fits"] == "yes")
    if row["targets"]:
        assert set(row["targets"].split(";")) <= set(asked.modules)
        assert result.plan.target_modules == "all-linear"
    if row["r"] and "r" not in left_out:
        least, most = ends(row["r"])
        assert least <= result.plan.r <= most
    if row["learning_rate"] and "learning_rate" not in left_out:
        least, most = ends(row["learning_rate"])
        assert least / LEARNING_RATE_FACTOR <= result.plan.learning_rate <= most * LEARNING_RATE_FACTOR
    if row["effective_batch"] and "effective_batch" not in left_out:
        wanted = int(row["effective_batch"])
        assert wanted / BATCH_FACTOR <= result.plan.effective_batch_size <= wanted * BATCH_FACTOR
