"""Where training data comes from, and what a person said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from specs import DataError

Thinking = Literal["keep", "drop"]
TASKS = ("answers", "text", "preference", "unpaired", "classification")
"""What data can be trained for: answers, plain text, pairs of a better and a worse answer (DPO), single answers marked
good or bad (KTO), and texts with a class."""


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
