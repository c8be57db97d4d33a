"""The page of methods names every method of the table, and no other."""

import re

from specs import METHODS
from specs.paths import REPO


def test_every_method_has_a_row_and_every_row_a_method():
    text = (REPO / "docs" / "methods.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)} == set(METHODS)


def test_what_the_page_says_of_merging_is_what_the_table_says():
    text = (REPO / "docs" / "methods.md").read_text(encoding="utf-8").partition("\n## ")[0]
    for cells in (line.split("|") for line in text.splitlines() if line.startswith("| `")):
        for name in re.findall(r"`([a-z0-9-]+)`", cells[1]):
            adapter = METHODS[name].adapter
            assert cells[4].strip().startswith("no") == bool(adapter and adapter.unmerged), name
