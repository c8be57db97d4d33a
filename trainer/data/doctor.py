"""Examines a data set before it is trained on: what is in it, what is wrong with it, and how long it is in tokens."""

import bisect
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specs import DataError
from trainer.data.layouts import Example, examples
from trainer.data.reading import Finding
from trainer.data.rendering import Rendered, rendered
from trainer.data.source import DataSource

FINDINGS = 50
"""How many findings are kept in words; all are counted."""
PREVIEWS = 5
SAMPLE = 4_000
"""Rows whose length is counted in tokens; beyond, one of 2, of 4, … so that a sample of the whole file remains."""
_PROGRESS_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a data set holds."""

    layout: str
    """Name of the recognised layout."""
    rows: int
    """Rows that can be trained on."""
    skipped: int
    """Rows that cannot."""
    findings: tuple[Finding, ...]
    """Why rows are skipped: the first ones, in words."""
    duplicates: int
    """Rows that repeat an earlier one, word for word."""
    lengths: tuple[int, ...]
    """Tokens of the examined rows, sorted; empty without a tokenizer."""
    previews: tuple[Rendered, ...]
    """The first rows as the model reads them."""

    def quantile(self, share: float) -> int:
        """Return the length that a share of the rows does not exceed, from 0 to 1."""
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))]

    def share_truncated(self, max_length: int) -> float:
        """Return the share of rows that are longer than ``max_length``."""
        if not self.lengths:
            return 0.0
        return 1 - bisect.bisect_right(self.lengths, max_length) / len(self.lengths)

    def histogram(self, bins: int = 30) -> tuple[tuple[int, int, int], ...]:
        """Return equal ranges of length with their counts: from, to before, count."""
        if not self.lengths:
            return ()
        width = max(1, -(-(self.lengths[-1] + 1) // bins))
        edges = range(0, self.lengths[-1] + 1, width)
        places = [bisect.bisect_left(self.lengths, edge) for edge in (*edges, edges[-1] + width)]
        return tuple(
            (edge, edge + width, after - before) for edge, before, after in zip(edges, places, places[1:], strict=False)
        )


class _Sample:
    """Every k-th value of a stream whose length is not known, with k doubled whenever the sample is full."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._every = capacity, 1
        self.values = array("q")

    def wants(self, number: int) -> bool:
        """Return whether the value of this number, from 0, belongs to the sample."""
        return number % self._every == 0

    def add(self, value: int) -> None:
        """Take a value that is wanted."""
        self.values.append(value)
        if len(self.values) >= self._capacity:
            self._every *= 2
            self.values = self.values[::2]


def examined(source: DataSource, tokenizer: Any = None, *, progress: Callable[[int], None] | None = None) -> Report:
    """Return what a data set holds, read in one pass without keeping its rows.

    Args:
        source: The file and its columns.
        tokenizer: Of transformers, or a ``FolderTokenizer``; None counts no tokens and renders no previews.
        progress: Is told the number of rows read, now and then.

    Raises:
        DataError: If the file cannot be read, or has no row to train on.
    """
    findings: list[Finding] = []
    previews: list[Rendered] = []
    sample, hashes = _Sample(SAMPLE), array("q")  # 8 bytes a row; a set takes 70
    rows = skipped = 0
    layout = ""
    for entry in _counted(examples(source), progress):
        if isinstance(entry, Finding):
            skipped += 1
            findings += [entry] if len(findings) < FINDINGS else []
            continue
        layout = layout or entry.layout
        hashes.append(hash((entry.turns, entry.chosen, entry.rejected)))
        if tokenizer is not None and sample.wants(rows):
            text = rendered(entry, tokenizer)
            sample.add(len(tokenizer(text.text, add_special_tokens=False)["input_ids"]))
            previews += [text] if len(previews) < PREVIEWS else []
        rows += 1
    if rows == 0:
        way_out = findings[0].sentence if findings else ""
        raise DataError(source.path, "must have at least one row to train on", 0, way_out)
    return Report(
        layout=layout,
        rows=rows,
        skipped=skipped,
        findings=tuple(findings),
        duplicates=rows - len(np.unique(np.frombuffer(hashes, dtype=np.int64))),
        lengths=tuple(sorted(sample.values)),
        previews=tuple(previews),
    )


def _counted(
    entries: Iterator[Example | Finding], progress: Callable[[int], None] | None
) -> Iterator[Example | Finding]:
    for number, entry in enumerate(entries):
        if progress is not None and number % _PROGRESS_ROWS == 0:
            progress(number)
        yield entry
