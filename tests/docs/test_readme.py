"""The README tells the truth: its tree names every module, and the commands it shows exist."""

import re
from datetime import date
from pathlib import Path

import pytest

from scripts import readme

TEXT = readme.README.read_text(encoding="utf-8")


def test_the_tree_names_every_module_with_its_own_first_line() -> None:
    assert readme.updated(TEXT, date(2000, 1, 1)) == TEXT, "run `make readme`"


@pytest.mark.parametrize("path", readme.modules(), ids=str)
def test_every_module_says_in_one_line_what_it_is(path: Path) -> None:
    assert readme.summary(readme.REPO / path), f"{path} has no docstring"


def test_every_make_command_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (readme.REPO / "Makefile").read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"`make ([a-z]+)`", TEXT))
    assert shown
    assert shown <= targets


def test_every_file_the_readme_links_to_exists() -> None:
    linked = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXT)
    assert linked
    assert all((readme.REPO / name).exists() for name in linked)
