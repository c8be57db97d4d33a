"""Where training data comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The data of a run: one file, and what to ask the model before and after."""

    path: str
    """A json, jsonl, csv, parquet or txt file."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column plays which role, where it is not recognised by itself: role to column name."""
    prompts: tuple[str, ...] = ()
    """Questions answered by the base model and by the tuned one; empty takes the first ones of the data."""
