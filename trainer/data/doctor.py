"""Examines a data set before it is trained on: what is in it, what is wrong with it, and how long it is in tokens."""

import bisect
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from specs import DataError
from trainer.data.examples import Example, examples, require_mostly_good
from trainer.data.files import reading
from trainer.data.forms import tagged
from trainer.data.rendering import Renderer
from trainer.data.row import Finding, UnreadableError
from trainer.data.source import WITHOUT_ANSWERS, DataSource
from trainer.data.tokenizer import DataTokenizer

FINDINGS = 50
"""How many findings are kept in words; all are counted."""
PREVIEWS = 5
SAMPLE = 4_000
"""Rows whose length is counted in tokens; beyond, one of 2, of 4, … so that a sample of the whole file remains."""
UNBALANCED = 10
"""Classes are called unbalanced if one has so many times the rows of another."""
MOST_REASONS = 1_000
"""How many different reasons, classes, and names of what is not read are told apart."""
_PROGRESS_ROWS = 50
_COUNTED_TOGETHER = 128 * 1024
"""Characters whose tokens are counted at once, on all cores."""
_LONGER = 1.05
"""A row beyond the sample is counted too if it has so many times the characters of any before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One row as the model reads it, in pieces, each with whether it is learned."""

    row: int
    pieces: tuple[tuple[str, bool], ...]
    rejected: tuple[tuple[str, bool], ...] = ()
    """The same with the worse answer of a pair."""
    label: str | None = None
    """Whether a marked answer is good; the class of a text."""
    has_class: bool = False
    """Whether it is a text with a class."""
    writes: bool = True
    """Whether the model learns to write any of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a data set holds."""

    layout: str
    """Name of the recognised layout."""
    task: str
    """What the data is for: one of ``trainer.data.source.TASKS``."""
    rows: int
    """Rows that can be trained on."""
    skipped: int
    """Rows that cannot."""
    reasons: Mapping[str, int]
    """How many rows are skipped for each reason."""
    findings: tuple[Finding, ...]
    """Why rows are skipped: the first ones, in words."""
    unused: Mapping[str, int]
    """Columns and keys of messages that hold something and are not read: in how many rows each."""
    labels: Mapping[str, int]
    """Of marked answers and of texts with a class, how many rows have each; of tags, how many words."""
    duplicates: int
    """Rows that repeat an earlier one, word for word."""
    lengths: tuple[int, ...]
    """Tokens of the examined rows, sorted; empty without a tokenizer. Of a pair its longer side counts."""
    previews: tuple[Preview, ...]
    """The first rows as the model reads them."""
    whole: bool
    """Whether the file was read to its end."""
    longest: int = 0
    """Tokens of the longest row, also of those beyond the sample; 0 without a tokenizer."""
    traits: Mapping[str, int] = field(default_factory=dict)
    """In how many rows each optional column is read, and each of ``specs.dataset.TRAITS`` is found."""
    roles: tuple[str, ...] = ()
    """The roles that the layout needs."""

    also: tuple[str, ...] = ()
    """What else the data can be taken for."""
    num_negatives: int = 0
    """How many wrong texts every row has beside the right one."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """All that the data can be taken for, of ``trainer.data.source.TASKS``."""
        return (self.task, *self.also)

    @property
    def num_labels(self) -> int:
        """How many classes the texts have, or tags the words, at least the two that a plan needs."""
        return max(2, len(self.labels)) if self.labels and self.task in WITHOUT_ANSWERS else 2

    @property
    def imbalance(self) -> str:
        """A sentence if one class is far rarer than another; empty otherwise."""
        if self.task != "classification" or len(self.labels) < 2:
            return ""
        (common, most), (rare, least) = (pick(self.labels.items(), key=lambda entry: entry[1]) for pick in (max, min))
        if most < UNBALANCED * least:
            return ""
        return (
            f"The classes are unbalanced: {least:,} rows of {rare[:40]} to {most:,} of {common[:40]}. Accuracy hides a "
            "rare class that is never found: look at F1, or add rows of it."
        )

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


def preview_of(
    example: Example, pieces: tuple[tuple[str, bool], ...], rejected: tuple[tuple[str, bool], ...] = ()
) -> Preview:
    """Return how a row is shown whose text is known."""
    label = None if example.label is None else str(example.label)
    return Preview(
        row=example.row,
        pieces=pieces,
        rejected=rejected,
        label=tagged.told(example.words, example.tags) if example.tags else label,
        has_class=isinstance(example.label, str),
        writes=example.task not in WITHOUT_ANSWERS,
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


def examined(
    source: DataSource,
    tokenizer: DataTokenizer | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    first_rows: int | None = None,
    previews: int = PREVIEWS,
    task_types: tuple[str, ...] = (),
) -> Report:
    """Return what a data set holds, read in one pass without keeping its rows.

    Args:
        source: The file and its columns.
        tokenizer: Renders rows and counts their tokens; None counts no tokens and renders no previews.
        progress: Is told the number of rows read, now and then.
        first_rows: Stop after so many; None reads all.
        previews: How many rows are shown as the model reads them.
        task_types: The tasks that the model can be trained for, which decide how rows are read; empty for any decoder.

    Raises:
        DataError: If the file cannot be read, or has too few rows to train on.
    """
    look = _Look(tokenizer, source, previews, task_types)
    whole = True
    for number, entry in enumerate(_counted(examples(source), progress)):
        if number == first_rows:
            whole = False
            break
        look.at(entry)
    others = {source.split, source.evaluation_split}
    for name, count in reading.splits(Path(source.path)).items():
        if name not in others:
            look.leave_out_split(name, count)
    return look.report(source.path, whole=whole)


class _Look:
    """One pass over rows: what is counted and kept of them."""

    def __init__(
        self, tokenizer: DataTokenizer | None, source: DataSource, previews: int, task_types: tuple[str, ...]
    ) -> None:
        renderer = Renderer(tokenizer, thinking=source.thinking, task_types=task_types) if tokenizer else None
        self._reader = None if tokenizer is None or renderer is None else (tokenizer, renderer)
        self._wanted_previews = previews
        self._rows = self._skipped = 0
        self._first: Example | None = None
        self._findings: list[Finding] = []
        self._previews: list[Preview] = []
        self._reasons: Counter[str] = Counter()
        self._unused: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._traits: Counter[str] = Counter()
        self._negatives = 0
        self._sample, self._hashes = _Sample(SAMPLE), array("q")  # 8 bytes a row; a set takes 70
        self._longest = self._most_characters = 0
        self._uncounted: list[tuple[int, str]] = []
        self._uncounted_characters = 0

    def at(self, entry: Example | Finding) -> None:
        """Look at one row; of a sample also at its tokens."""
        if isinstance(entry, Finding):
            self._skip(entry)
            return
        try:
            if self._reader is not None and (self._sample.wants(self._rows) or self._stands_out(entry)):
                self._render(*self._reader, entry)
        except UnreadableError as error:
            self._skip(Finding(row=entry.row, reason=str(error)))
        else:
            self._take(entry)

    def report(self, path: str, *, whole: bool) -> Report:
        """Return what was found.

        Raises:
            DataError: If there are too few rows to train on.
        """
        require_mostly_good(path, total=self._rows + self._skipped, reasons=self._reasons)
        if self._reader is not None:
            self._count(self._reader[0])
        if self._first is None:
            way_out = self._findings[0].sentence if self._findings else ""
            raise DataError(Path(path).name, "must have at least one row to train on", 0, way_out)
        return Report(
            layout=self._first.layout,
            task=self._first.task,
            rows=self._rows,
            skipped=self._skipped,
            reasons=dict(self._reasons.most_common()),
            findings=tuple(self._findings),
            unused=dict(self._unused.most_common()),
            labels=dict(self._labels.most_common()),
            duplicates=self._rows - len(np.unique(np.frombuffer(self._hashes, dtype=np.int64))),
            lengths=tuple(sorted(self._sample.values)),
            previews=tuple(self._previews),
            whole=whole,
            longest=self._longest,
            traits=dict(self._traits),
            roles=self._first.roles,
            also=self._first.kinds[1:],
            num_negatives=self._negatives,
        )

    def _stands_out(self, example: Example) -> bool:
        return _characters(example) > _LONGER * self._most_characters

    def _render(self, tokenizer: DataTokenizer, renderer: Renderer, example: Example) -> None:
        texts = renderer.both(example) if example.rejected else (renderer.rendered(example),)
        self._leave_out(texts[0].left_out)
        self._most_characters = max(self._most_characters, _characters(example))
        counted = [one for text in texts for one in renderer.counted(example, text)]
        self._uncounted += ((self._rows, one) for one in counted)
        self._uncounted_characters += sum(map(len, counted))
        if self._uncounted_characters >= _COUNTED_TOGETHER:
            self._count(tokenizer)
        if len(self._previews) < self._wanted_previews:
            worse = tuple(texts[1].pieces()) if len(texts) > 1 else ()
            self._previews.append(preview_of(example, tuple(texts[0].pieces()), worse))

    def _count(self, tokenizer: DataTokenizer) -> None:
        """Count the tokens of the rows that wait for it; of a pair the longer side."""
        lengths: dict[int, int] = {}
        counts = tokenizer.lengths([text for _, text in self._uncounted])
        for (number, _), length in zip(self._uncounted, counts, strict=True):
            lengths[number] = max(length + self._added(tokenizer), lengths.get(number, 0))
        self._uncounted.clear()
        self._uncounted_characters = 0
        for number, length in lengths.items():
            self._longest = max(self._longest, length)
            if length and self._sample.wants(number):
                self._sample.add(length)

    def _added(self, tokenizer: DataTokenizer) -> int:
        """Return the special tokens around a text that no template is for."""
        if self._first is None or self._reader is None or not self._reader[1].is_plain(self._first):
            return 0
        begun = self._reader[1].begins_with
        return max(0, tokenizer.added - bool(begun))

    def _skip(self, finding: Finding) -> None:
        """Count a row that cannot be trained on; beyond so many different reasons, they are one."""
        self._skipped += 1
        self._reasons[_known(finding.reason, self._reasons)] += 1
        if len(self._findings) < FINDINGS:
            self._findings.append(finding)

    def _leave_out(self, names: Iterable[str]) -> None:
        """Count what is not read; beyond so many different names, they are one."""
        self._unused.update(_known(name, self._unused) for name in names)

    def leave_out_split(self, name: str, rows: int) -> None:
        """Count the rows of a split that is neither learned nor evaluated on."""
        self._unused[f"split {name}"] = rows

    def _take(self, example: Example) -> None:
        known = len(example.negatives)
        self._negatives = known if self._first is None else min(known, self._negatives)
        self._rows += 1
        self._first = self._first or example
        self._leave_out(example.unused)
        self._traits.update(example.traits)
        for tag in example.tags:
            self._labels[_known(tag, self._labels)] += 1
        if example.label is not None:
            self._labels[_known(str(example.label), self._labels)] += 1
        self._hashes.append(example.identity)


def _characters(example: Example) -> int:
    return sum(len(turn.content) for turn in (*example.turns, *example.chosen, *example.rejected))


def _known(name: str, counted: Mapping[str, int]) -> str:
    return name if name in counted or len(counted) < MOST_REASONS else "others"


def _counted(
    entries: Iterator[Example | Finding], progress: Callable[[int], None] | None
) -> Iterator[Example | Finding]:
    for number, entry in enumerate(entries):
        if progress is not None and number % _PROGRESS_ROWS == 0:
            progress(number)
        yield entry
