"""One row of a data set, and what is said of one that cannot be trained on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from specs.errors import LorafitError, ended

Row: TypeAlias = Mapping[str, Any]


class UnreadableError(LorafitError):
    """A row that cannot be trained on; the text is the reason alone."""

    def __init__(self, reason: str) -> None:
        """Take the reason, without subject and full stop."""
        Exception.__init__(self, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row that cannot be trained on, and why."""

    row: int
    """Number of the row in the file, from 1."""
    reason: str

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"Row {self.row:,}: {ended(self.reason)}"


Rows: TypeAlias = Iterator[tuple[int, Row | Finding]]
"""Rows of a file with their numbers, from 1."""
