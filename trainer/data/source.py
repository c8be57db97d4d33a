"""Where training data comes from, and what a person said about it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from specs import DataError

Thinking = Literal["keep", "drop"]
TASKS = ("answers", "text", "preference", "unpaired", "classification", "tags", "related", "similarity", "extraction")
"""What data can be trained for: answers, plain text, pairs of a better and a worse answer (DPO), single answers marked
good or bad (KTO), texts with a class, words with tags, texts that belong together, two texts with a score of how alike
they are, and answers that are cut out of a text."""

WITHOUT_ANSWERS = frozenset({"classification", "tags", "related", "similarity"})
"""Of these the data in which nobody answers: the text stands for itself."""

HELD: Mapping[str, str] = {
    "answers": "answers to learn",
    "text": "plain text",
    "preference": "pairs of a better and a worse answer",
    "unpaired": "answers marked good or bad",
    "classification": "texts with a class",
    "tags": "words with tags",
    "related": "texts that belong together",
    "similarity": "pairs of texts with a score",
    "extraction": "answers that stand in a text",
}
"""What each kind of data holds, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The data of a run: one file, and what to ask the model before and after."""

    path: str
    """A json, jsonl, csv, tsv, parquet or txt file."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column plays which role, where it is not recognised by itself: role to column name."""
    prompts: tuple[str, ...] = ()
    """Questions answered by the base model and by the tuned one; empty takes some of the data."""
    thinking: Thinking = "keep"
    """Whether reasoning before an answer is learned with it or left out."""
    split: str = "train"
    """Which split is read of a file that holds several by name."""
    evaluation_split: str = ""
    """The split of the same file that is held out; empty takes a share of the rows, as the plan says."""

    def __post_init__(self) -> None:
        """Refuse a choice that there is not."""
        if self.thinking not in {"keep", "drop"}:
            raise DataError("thinking", "must be keep or drop", self.thinking)
        if not self.split:
            raise DataError("split", "must be the name of a split", "''", "Leave it out for train")

    def require_unchanged(self, known: str | None) -> str:
        """Return the SHA-256 of the file, after comparing it with the one that a run started with.

        Raises:
            DataError: If there is no such file any more, or it differs: the curve could not continue.
        """
        path = Path(self.path)
        if not path.is_file():
            raise DataError(self.path, "is not a file", None, "Put it back, or start a new run with other data")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if known not in {None, found}:
            way_out = "Start a new run with the changed data"
            raise DataError(path.name, "has changed since the run started", None, way_out)
        return found


def columns_of(entries: Sequence[str]) -> dict[str, str]:
    """Return columns by role from words such as ``prompt=question``.

    Raises:
        DataError: If a word names no role or no column.
    """
    pairs = [entry.partition("=") for entry in entries]
    wrong = next((entry for entry, (_, _, column) in zip(entries, pairs, strict=True) if not column), None)
    if wrong is not None:
        raise DataError("--columns", "takes pairs of a role and a column", wrong, "Write prompt=question, for example")
    return {role: column for role, _, column in pairs}
