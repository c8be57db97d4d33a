"""The tests that rows of code bring with them, as HumanEval's and MBPP's data sets do.

Source:
    https://huggingface.co/datasets/openai/openai_humaneval and https://huggingface.co/datasets/google-research-datasets/mbpp
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.files.reading import rows
from trainer.data.row import Finding, Row
from trainer.data.source import DataSource

TESTS = ("test", "tests", "test_list", "test_code")
"""Columns that may hold what is run after an answer, one text or a list of lines; the first that is there counts."""
_BEFORE = ("test_setup_code", "test_imports")
_ENTRY = "entry_point"
_QUESTION = "prompt"
_LOOKED_AT = 20
"""Rows that are looked at to tell whether data brings tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTest:
    """What is run after the code of an answer; that it ends without an error says that the answer is right."""

    code: str
    before: str = ""
    """What is run first, such as imports."""
    entry_point: str = ""
    """The function that is tested, where ``code`` defines ``check``, to which it is given."""
    begun: str = ""
    """The beginning of that function, where the question is one that an answer goes on with."""


def test_of(row: Row) -> RowTest | None:
    """Return the test of a row, or None if it brings none."""
    code = next((found for name in TESTS if (found := _lines(row.get(name)))), "")
    if not code.strip():
        return None
    entry, question = row.get(_ENTRY), row.get(_QUESTION)
    entry = entry.strip() if isinstance(entry, str) else ""
    begins = bool(entry) and isinstance(question, str) and f"def {entry}(" in question
    return RowTest(
        code=code,
        before="\n".join(filter(None, (_lines(row.get(name)) for name in _BEFORE))),
        entry_point=entry,
        begun=str(question) if begins else "",
    )


def tests_of(source: DataSource, numbers: Collection[int]) -> Mapping[int, RowTest]:
    """Return the tests of some rows of a file, by the rows' numbers; of columns that play no role, too.

    Raises:
        DataError: If the file cannot be read.
    """
    wanted = set(numbers)
    found = ((number, test_of(row)) for number, row in _read(source) if number in wanted)
    return {number: test for number, test in found if test is not None}


def brings_tests(source: DataSource) -> bool:
    """Return whether the first rows of a file bring tests.

    Raises:
        DataError: If the file cannot be read.
    """
    return any(test_of(row) for _, row in itertools.islice(_read(source), _LOOKED_AT))


def _read(source: DataSource) -> Iterator[tuple[int, Row]]:
    for number, row in rows(Path(source.path), source.split):
        if not isinstance(row, Finding):
            yield number, row


def _lines(value: Any) -> str:
    """Return a text, or a list of texts as its lines; nothing of anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return ""
