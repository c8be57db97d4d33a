"""The fault table tells the truth: every fault has the test that it names."""

import re

from specs.paths import REPO


def test_every_fault_of_the_table_has_its_test():
    table = (REPO / "docs" / "faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", table))
    written = {
        name
        for file in (REPO / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) >= 15
    assert named <= written
