"""Reads the rows of csv and tsv files as people save them: any usual delimiter, broken lines told row by row."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from specs import DataError
from trainer.data.files.bounds import LONGEST
from trainer.data.files.encodings import encoding
from trainer.data.files.parquet import brief
from trainer.data.row import Finding, Rows

_DELIMITERS = ",;\t|"

csv.field_size_limit(LONGEST)


def rows(path: Path) -> Rows:
    """Yield the rows of a file of separated values; a row that cannot be read is a finding.

    Raises:
        DataError: If two columns have one name, or a quote never closes.
    """
    how = encoding(path)
    with path.open(encoding=how, newline="") as stream:
        mark = delimiter_of(stream.readline(LONGEST), path)
        stream.seek(0)
        lines = _Lines(stream)
        table = csv.DictReader(lines, delimiter=mark)
        _require_different_names(table.fieldnames or (), path)
        for number in itertools.count(1):
            try:
                row = next(table, None)
            except csv.Error as error:
                if number == 1 and table.fieldnames is None:
                    raise
                lines.skip_line()
                yield number, Finding(row=number, reason=f"cannot be read: {brief(error)}")
                continue
            if row is None:
                return
            if lines.are_over:
                _require_closed(lines.read, mark, table.line_num, path)
            lines.read.clear()
            extra = row.pop(None, None)
            yield number, Finding(row=number, reason="has more fields than the first line names") if extra else row


def _require_different_names(names: Sequence[str], path: Path) -> None:
    twice = next((name for name, times in Counter(names).items() if name and times > 1), None)
    if twice is not None:
        raise DataError(path.name, "must give each column a name of its own", twice, "Rename one of them")


def _require_closed(lines: Sequence[str], delimiter: str, end: int, path: Path) -> None:
    """Refuse a file whose last row goes on to the end because a quote never closes: it took in the rows after it."""
    try:
        for _ in csv.reader(lines, delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error) and len(lines) > 1:
            rule = f"has a quote in line {end - len(lines) + 1:,} that never closes, which takes in all lines after it"
            raise DataError(path.name, rule, None, "Close it, or write it twice") from error


class _Lines:
    """The lines of a text for the csv reader, a long one in parts, so that none is held as a whole."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._last = stream, ""
        self.read: list[str] = []
        """The lines since somebody cleared them."""
        self.are_over = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._last = self._stream.readline(LONGEST)
        if not self._last:
            self.are_over = True
            raise StopIteration
        self.read.append(self._last)
        return self._last

    def skip_line(self) -> None:
        """Pass over the rest of a line that the csv reader gave up."""
        while self._last and not self._last.endswith("\n"):
            self._last = self._stream.readline(LONGEST)


def delimiter_of(header: str, path: Path) -> str:
    """Return what separates the names in the first line: the mark that splits it into most."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    counts = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in _DELIMITERS}
    return max(_DELIMITERS, key=lambda mark: counts[mark])
