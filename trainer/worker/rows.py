"""The rows of a run: tokenized into files, and what was skipped or not read noted."""

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from specs import TASK_TYPES, DataError
from trainer import files
from trainer.data.examples import Example, examples, require_mostly_good, require_trained
from trainer.data.rendering import Renderer
from trainer.data.row import Finding, UnreadableError
from trainer.data.source import DataSource
from trainer.failure import StopRequestedError
from trainer.runs.feasibility import require_task
from trainer.runs.session import Session
from trainer.worker import distributed
from trainer.worker.learning.making import RowMaker, schema_of
from trainer.worker.splitting import (
    Rows,
    classes_of,
    known_answers,
    left_out,
    numbers_of,
    questions_of,
    split_rows,
    without_asides,
)

NO_PROMPTS: Mapping[str, str] = MappingProxyType({})
"""What models put before a text that are not made for embeddings."""

ROWS = "rows"
"""Folder of the tokenized rows within the run's folder, while the run is active."""

_LEARNED, _HELD_OUT = "rows.arrow", "held_out.arrow"
_KEPT_FINDINGS = 100
_BATCH = 512
"""How many rows are held in memory before they are written."""
_SIZE = 4
"""Bytes on disk per byte of data: two columns of 4 bytes per token of about 4 bytes, and again when packed."""


class _Reading:
    """One pass over the data: its tokenized rows, and what is worth recording about it."""

    def __init__(
        self,
        session: Session,
        tokenizer: PreTrainedTokenizerBase,
        source: DataSource,
        prompts: Mapping[str, str] = NO_PROMPTS,
    ) -> None:
        self._session, self._source = session, source
        self._maker = RowMaker(
            session.plan,
            tokenizer,
            Renderer(tokenizer, thinking=source.thinking, task_types=(session.plan.task_type,)),
            prompts,
        )
        self.rows = self.skipped = 0
        self.texts = 1
        self._findings: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._unused: Counter[str] = Counter()

    def rows_to_train(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that can be trained on, and count those that cannot."""
        for entry in examples(self._source):
            if isinstance(entry, Finding):
                self._skip(entry)
                continue
            require_trained(entry.task, self._source.path)
            require_task(self._session.plan, entry.kinds)
            try:
                made = self._maker.made(entry)
            except UnreadableError as error:
                self._skip(Finding(row=entry.row, reason=str(error)))
                continue
            self.rows += 1
            self.texts = made.texts
            self._unused.update((*entry.unused, *made.left_out))
            asides = {"group": _group(entry), "question": made.question, "answer": made.answer, "row": entry.row}
            yield from ({**row, **asides} for row in made.rows)

    def note(self) -> None:
        """Record in the store what was found.

        Raises:
            DataError: If there are too few rows to train on.
        """
        unused = dict(self._unused.most_common())
        self._session.details(rows=self.rows, skipped=self.skipped, findings=self._findings, unused=unused)
        self.require_rows()
        if self.skipped:
            self._session.event("warning", f"{self.skipped:,} rows skipped, such as: {self._findings[0]}")
        if unused:
            told = ", ".join(f"{name} ({count:,} rows)" for name, count in unused.items())
            self._session.event("warning", f"Not read: {told}.")

    def require_rows(self) -> None:
        """Refuse data with too few rows that can be trained on.

        Raises:
            DataError: With the commonest reasons.
        """
        require_mostly_good(self._source.path, total=self.rows + self.skipped, reasons=self._reasons)
        if not self.rows:
            first = self._findings[0] if self._findings else ""
            raise DataError(Path(self._source.path).name, "has no row to train on", None, first)

    def _skip(self, finding: Finding) -> None:
        self.skipped += 1
        self._reasons[finding.reason] += 1
        if len(self._findings) < _KEPT_FINDINGS:
            self._findings.append(finding.sentence)


@contextmanager
def tokenized_rows(
    session: Session, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, str] = NO_PROMPTS
) -> Iterator[Rows]:
    """Yield the tokenized rows, read from disk as they are needed.

    Args:
        session: The run.
        tokenizer: The model's.
        prompts: What an embedding model puts before a text, by its kind.

    Raises:
        DataError: If the data has changed, or has too few rows to train on.
        StopRequestedError: If somebody asked the run to end meanwhile.
    """
    folder = session.folder / ROWS
    disable_progress_bars()
    try:
        texts = _tokenize(session, tokenizer, folder, prompts) if session.leads else 1
        distributed.meet()
        rows = replace(_rows_of(folder, session), texts=texts)
        writes = TASK_TYPES[session.plan.task_type].writes
        session.details(**({"classes": rows.classes} if rows.classes else {}), **({} if writes else {"texts": texts}))
        of_tokens = "input_ids" in rows.learned.column_names and writes
        session.details(learned=len(rows.learned), loss_of_tokens=of_tokens)
        if session.leads and not session.run.data.prompts:
            session.event("data", _told(rows, writes=writes))
        if session.leads and not session.run.data.prompts and writes:
            session.details(expected={question: answer for question, answer in rows.expected.items() if answer})
        yield rows
    finally:
        if session.leads:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unlearned_rows(
    session: Session,
    tokenizer: PreTrainedTokenizerBase,
    other: DataSource | None,
    prompts: Mapping[str, str] = NO_PROMPTS,
) -> Iterator[Dataset]:
    """Yield the tokenized rows of a finished run that it did not learn, with their questions and answers.

    Args:
        session: The run.
        tokenizer: The one of its result.
        other: Rows of another file; without, those that the run held out or spared.
        prompts: What an embedding model puts before a text, by its kind.

    Raises:
        DataError: If the data has changed, or the run learned all of it.
    """
    disable_progress_bars()
    source, plan = session.run.data, session.plan
    if other is None:
        source.require_unchanged(session.run.details.get("data_sha256"))
        other = replace(source, split=source.evaluation_split) if source.evaluation_split else None
    with files.scratch_folder(session.folder) as folder:
        reading = _Reading(session, tokenizer, other or source, prompts)
        files.require_space(folder, _SIZE * Path((other or source).path).stat().st_size, "tokenizing the data")
        _write(reading.rows_to_train(), folder / _LEARNED, session)
        reading.require_rows()
        data = Dataset.from_file(str(folder / _LEARNED))
        yield data if other else data.select(left_out(data, plan, asked=source.prompts))


def _rows_of(folder: Path, session: Session) -> Rows:
    """Return the rows of the files in a folder: a split that is held out is a file of its own."""
    data, asked = Dataset.from_file(str(folder / _LEARNED)), session.run.data.prompts
    if not (folder / _HELD_OUT).exists():
        return split_rows(data, session.plan, asked=asked)
    held_out = Dataset.from_file(str(folder / _HELD_OUT))
    expected = known_answers(held_out, session.plan, asked) if asked else questions_of(held_out, range(len(held_out)))
    return Rows(
        learned=without_asides(data),
        numbers=numbers_of(data),
        held_out=without_asides(held_out),
        prompts=asked or tuple(expected),
        expected=expected,
        classes=classes_of(data, session.plan, held_out),
    )


def _tokenize(session: Session, tokenizer: PreTrainedTokenizerBase, folder: Path, prompts: Mapping[str, str]) -> int:
    """Tokenize the data into files of the folder; return how many texts have a class together."""
    source = session.run.data
    known = session.run.details.get("data_sha256")
    session.details(data_sha256=source.require_unchanged(known))
    shutil.rmtree(folder, ignore_errors=True)  # left by a worker that was killed
    folder.mkdir()
    files.require_space(folder, _SIZE * Path(source.path).stat().st_size, "tokenizing the data")
    reading = _Reading(session, tokenizer, source, prompts)
    _write(reading.rows_to_train(), folder / _LEARNED, session)
    reading.note()
    if source.evaluation_split:
        held_out = _Reading(session, tokenizer, replace(source, split=source.evaluation_split), prompts)
        _write(held_out.rows_to_train(), folder / _HELD_OUT, session)
        held_out.require_rows()
    return reading.texts


def _write(rows: Iterator[Mapping[str, Any]], path: Path, session: Session) -> None:
    """Write rows as they come, so that only a few are in memory at once."""
    first = next(rows, None)
    schema = schema_of(first or {})
    every = itertools.chain([first] if first is not None else [], rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        while batch := list(itertools.islice(every, _BATCH)):
            if session.stop.is_set():
                raise StopRequestedError
            stream.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))


def _group(example: Example) -> int:
    """Return what examples of the same question share, so that no question is both trained on and evaluated."""
    asked = "\n".join(turn.content for turn in example.turns if turn.role != "assistant")
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big", signed=True)


def _told(rows: Rows, *, writes: bool) -> str:
    """Return where the questions come from."""
    if not writes:
        learned = "from learned rows, since none are held out" if rows.held_out is None else "from held-out rows"
        return f"At the end, the model is given {len(rows.prompts)} texts {learned}."
    if not rows.prompts:
        return "No questions are asked before and after: the data has none. Give your own."
    if rows.held_out is not None:
        return f"{len(rows.prompts)} questions of held-out rows are asked before and after."
    if rows.num_spared:
        return f"{rows.num_spared} rows are not learned: their questions are asked before and after."
    return "The questions asked before and after are learned ones: the data has too few rows to spare any."
