"""What a data file holds: read in the background, so that a page shows its first rows at once."""

import functools
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from catalog import models, tokenizers
from specs import LorafitError, paths
from trainer.data import readers
from trainer.data.doctor import Report, examined
from trainer.data.readers import Reader
from trainer.data.source import DataSource
from ui.parts import notices

FIRST_ROWS = 1_000
"""Rows that a page waits for."""
_WITHIN_SECONDS = 0.8
"""A file that is read within this is shown whole at once."""
_LOOK_SECONDS = 0.2
_TURN_SECONDS, _PAGES_TURN_SECONDS = 0.02, 0.002
"""How long an examination computes before pages get their turn, and for how long it then stands back."""

_ONE_AT_A_TIME = threading.Lock()
"""Two examinations side by side would only slow each other down, and the pages too."""


class Examination:
    """One pass over a whole file in a thread of its own."""

    def __init__(self, source: DataSource, reader: Reader) -> None:
        """Begin as soon as no other file is read."""
        self._source, self._reader = source, reader
        self._report: Report | None = None
        self._error: Exception | None = None
        self.rows_read = 0
        self._gave_way_at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the file was read, or cannot be."""
        return not self._thread.is_alive()

    def report(self, wait_seconds: float) -> Report | None:
        """Return what was found, or None if it is not known within some seconds.

        Raises:
            LorafitError: If the file cannot be read, or has too few rows to train on.
        """
        self._thread.join(wait_seconds)
        if self._error is not None:
            raise self._error
        return self._report

    def waited_for(self) -> Report:
        """Return what was found, telling meanwhile how many rows were read.

        Raises:
            LorafitError: As ``report`` does.
        """
        while (found := self.report(_LOOK_SECONDS)) is None:
            notices.tell(f"examining the data, {self.rows_read:,} rows read")
        return found

    def _run(self) -> None:
        with _ONE_AT_A_TIME:
            try:
                self._report = examined(
                    self._source, self._reader.tokenizer, progress=self._count, task_types=self._reader.task_types
                )
            except Exception as error:  # noqa: BLE001 - raised again where the report is asked for
                self._error = error

    def _count(self, rows: int) -> None:
        self.rows_read = rows
        # Reading lets Python's lock go so often and so briefly that a page's thread would hardly ever get it.
        if time.monotonic() - self._gave_way_at > _TURN_SECONDS:
            time.sleep(_PAGES_TURN_SECONDS)
            self._gave_way_at = time.monotonic()


def report_of(source: DataSource, reader: Reader) -> tuple[Report, Examination | None]:
    """Return what a file holds: of a long one what its first rows hold, with the examination that is still running.

    Raises:
        LorafitError: If the file cannot be read, or has too few rows to train on.
    """
    key, began = _Key(source), time.monotonic()
    try:
        first = _first(key, reader)
    except LorafitError:  # few good rows at the beginning do not make a bad file
        return _whole(key, reader).waited_for(), None
    if first.whole:
        return first, None
    running = _whole(key, reader)
    found = running.report(max(0.0, _WITHIN_SECONDS - (time.monotonic() - began)))
    return (first, running) if found is None else (found, None)


def reader_for(model: str) -> Reader:
    """Return whose template and tokenizer read data for a model: its own, or by name what stands in for them."""
    demo = paths.demo_model()
    counted_by = demo if (demo / tokenizers.FILES[0]).is_file() else None
    try:
        spec = models.find(model)
    except LorafitError:  # the page says so itself
        return readers.reader(None, model_type="model", name=model, counted_by=counted_by)
    return readers.reader(
        tokenizers.folder(spec.name),
        model_type=spec.model_type,
        name=spec.name,
        counted_by=counted_by,
        task_types=spec.task_types,
    )


class _Key:
    """A data source that can be looked up, as long as its file stays as it is; what is asked plays no part."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self._facts = (
            source.path,
            _changed(source.path),
            _pairs(source.columns),
            source.thinking,
            source.split,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._facts == other._facts

    def __hash__(self) -> int:
        return hash(self._facts)


def _changed(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _pairs(columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(columns.items()))


@functools.lru_cache(maxsize=16)
def _first(key: _Key, reader: Reader) -> Report:
    return examined(key.source, reader.tokenizer, first_rows=FIRST_ROWS, task_types=reader.task_types)


@functools.lru_cache(maxsize=16)
def _whole(key: _Key, reader: Reader) -> Examination:
    return Examination(key.source, reader)
