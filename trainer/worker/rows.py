"""The rows of a run: tokenized into a file, what was skipped or not read noted, and split into learned and held out."""

import hashlib
import itertools
import shutil
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from specs import DataError, FinetunePlan
from trainer import files
from trainer.data.examples import Example, examples, require_mostly_good, require_trained
from trainer.data.files.reading import Finding
from trainer.data.messages import UnreadableError
from trainer.data.rendering import Renderer, compared, labelled
from trainer.data.source import DataSource
from trainer.failure import StopRequestedError
from trainer.runs.session import Session
from trainer.worker import distributed

ROWS = "rows"
"""Folder of the tokenized rows within the run's folder, while the run is active."""

QUESTIONS = 3
"""How many questions of the data are asked before and after, where a person gives none."""
SPARED_SHARE = 0.05
"""Rows are held out for the questions alone only if they are at most this share of all."""

_LEARNED, _HELD_OUT = "rows.arrow", "held_out.arrow"
_KEPT_FINDINGS = 100
_BATCH = 512
"""How many rows are held in memory before they are written."""
_SIZE = 4
"""Bytes on disk per byte of data: two columns of 4 bytes per token of about 4 bytes, and again when packed."""

_ASIDE = {"group": pyarrow.int64(), "question": pyarrow.string()}
"""Columns that are read here and not by the trainers."""
_TOKENS = pyarrow.schema(
    {
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "labels": pyarrow.list_(pyarrow.int32()),
        "length": pyarrow.int32(),
        **_ASIDE,
    }
)
_PAIRS = pyarrow.schema(
    {name: pyarrow.list_(pyarrow.int32()) for name in ("prompt_ids", "chosen_ids", "rejected_ids")} | _ASIDE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a run learns from, what it is evaluated on, and what it is asked before and after."""

    learned: Dataset
    held_out: Dataset | None = None
    prompts: tuple[str, ...] = ()
    num_spared: int = 0
    """Rows that are neither learned nor evaluated on, since their questions are asked."""


class _Reading:
    """One pass over the data: its tokenized rows, and what is worth recording about it."""

    def __init__(self, session: Session, tokenizer: PreTrainedTokenizerBase, source: DataSource) -> None:
        self._session, self._tokenizer, self._source = session, tokenizer, source
        self._renderer = Renderer(tokenizer, thinking=source.thinking)
        self.rows = self.skipped = 0
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
            try:
                row = self._row(entry)
            except UnreadableError as error:
                self._skip(Finding(row=entry.row, reason=str(error)))
                continue
            self.rows += 1
            self._unused.update(entry.unused)
            yield {**row, "group": _group(entry), "question": _question(entry)}

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

    def _row(self, example: Example) -> dict[str, Any]:
        """Return a row as TRL takes it: tokens with labels, or the tokens of a pair."""
        longest = self._session.plan.max_length
        if example.rejected:
            better, worse = self._renderer.both(example)
            pair = compared(better, worse, self._tokenizer)
            if len(pair["prompt_ids"]) >= longest:
                raise UnreadableError(f"its answer begins after max_length ({longest} tokens)")
            return dict(pair)
        text = self._renderer.rendered(example)
        self._unused.update(text.left_out)
        whole = not self._session.plan.completion_only_loss
        row = labelled(text, self._tokenizer, max_length=longest, whole=whole)
        if row is None:
            raise UnreadableError(f"its answer begins after max_length ({longest} tokens)")
        return {**row, "length": len(row["input_ids"])}

    def _skip(self, finding: Finding) -> None:
        self.skipped += 1
        self._reasons[finding.reason] += 1
        if len(self._findings) < _KEPT_FINDINGS:
            self._findings.append(finding.sentence)


@contextmanager
def tokenized_rows(session: Session, tokenizer: PreTrainedTokenizerBase) -> Iterator[Rows]:
    """Yield the tokenized rows, read from disk as they are needed.

    Raises:
        DataError: If the data has changed, or has too few rows to train on.
        StopRequestedError: If somebody asked the run to end meanwhile.
    """
    folder = session.folder / ROWS
    disable_progress_bars()
    try:
        if session.leads:
            _tokenize(session, tokenizer, folder)
        distributed.meet()
        rows = _rows_of(folder, session)
        if session.leads and not session.run.data.prompts:
            session.event("data", _told(rows))
        yield rows
    finally:
        if session.leads:
            shutil.rmtree(folder, ignore_errors=True)


def _rows_of(folder: Path, session: Session) -> Rows:
    """Return the rows of the files in a folder: a split that is held out is a file of its own."""
    data, asked = Dataset.from_file(str(folder / _LEARNED)), session.run.data.prompts
    if not (folder / _HELD_OUT).exists():
        return split_rows(data, session.plan, asked=asked)
    held_out = Dataset.from_file(str(folder / _HELD_OUT))
    prompts = asked or _questions(held_out, range(len(held_out)))
    return Rows(learned=_without_asides(data), held_out=_without_asides(held_out), prompts=prompts)


def _tokenize(session: Session, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Tokenize the data into files of the folder."""
    source = session.run.data
    session.details(data_sha256=data_fingerprint(session))
    shutil.rmtree(folder, ignore_errors=True)  # left by a worker that was killed
    folder.mkdir()
    files.require_space(folder, _SIZE * Path(source.path).stat().st_size, "tokenizing the data")
    reading = _Reading(session, tokenizer, source)
    _write(reading.rows_to_train(), folder / _LEARNED, session)
    reading.note()
    if source.evaluation_split:
        held_out = _Reading(session, tokenizer, replace(source, split=source.evaluation_split))
        _write(held_out.rows_to_train(), folder / _HELD_OUT, session)
        held_out.require_rows()


def _write(rows: Iterator[Mapping[str, Any]], path: Path, session: Session) -> None:
    """Write rows as they come, so that only a few are in memory at once."""
    first = next(rows, None)
    schema = _PAIRS if first is not None and "chosen_ids" in first else _TOKENS
    every = itertools.chain([first] if first is not None else [], rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        while batch := list(itertools.islice(every, _BATCH)):
            if session.stop.is_set():
                raise StopRequestedError
            stream.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))


def data_fingerprint(session: Session) -> str:
    """Return the SHA-256 of the data file.

    Raises:
        DataError: If it is no longer the file that the run started with: the curve could not continue.
    """
    path = Path(session.run.data.path)
    if not path.is_file():
        raise DataError(str(path), "is not a file", None, "Put it back, or start a new run with other data")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    known = session.run.details.get("data_sha256", found)
    if found != known:
        raise DataError(path.name, "has changed since the run started", None, "Start a new run with the changed data")
    return found


def _group(example: Example) -> int:
    """Return what examples of the same question share, so that no question is both trained on and evaluated."""
    asked = "\n".join(turn.content for turn in example.turns if turn.role != "assistant")
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big", signed=True)


def _question(example: Example) -> str:
    """Return the first question of a conversation; plain text has none."""
    return next((turn.content for turn in example.turns if turn.role == "user"), "")


def split_rows(data: Dataset, plan: FinetunePlan, *, asked: tuple[str, ...] = ()) -> Rows:
    """Return the rows to learn from and those to evaluate on, and the questions to ask before and after.

    The questions are a person's own, or of rows that are not learned: those to evaluate on, else a few that are held
    out for this, where the data has enough.

    Raises:
        DataError: If no row is left to train on.
    """
    groups = array("q", data["group"])
    held_out = held_out_rows(groups, share=plan.eval_split, seed=plan.seed)
    spared = [] if asked or held_out else _spared_rows(data, groups, seed=plan.seed)
    prompts = asked or _questions(data, held_out or spared or range(len(data)))
    rows = _without_asides(data)
    apart = {*held_out, *spared}
    if not apart:
        return Rows(learned=rows, prompts=prompts)
    learned = [row for row in range(len(data)) if row not in apart]
    if not learned:
        raise DataError("eval_split", "leaves no row to train on", plan.eval_split, "Lower eval_split or add rows")
    evaluated = rows.select(held_out) if held_out else None
    return Rows(learned=rows.select(learned), held_out=evaluated, prompts=prompts, num_spared=len(spared))


def _without_asides(data: Dataset) -> Dataset:
    return data.remove_columns([name for name in _ASIDE if name in data.column_names])


def _spared_rows(data: Dataset, groups: Sequence[Hashable], *, seed: int) -> list[int]:
    """Return rows whose questions are asked and which are not learned, or none where they would be missed."""
    if "question" not in data.column_names or not any(data["question"]):
        return []
    spared = held_out_rows(groups, share=QUESTIONS / max(len(data), 1), seed=seed)
    return spared if len(spared) <= SPARED_SHARE * len(data) else []


def _questions(data: Dataset, rows: Sequence[int]) -> tuple[str, ...]:
    if "question" not in data.column_names:
        return ()
    found = dict.fromkeys(data[row]["question"] for row in itertools.islice(rows, 10 * QUESTIONS))
    return tuple(question for question in found if question)[:QUESTIONS]


def _told(rows: Rows) -> str:
    """Return where the questions come from."""
    if not rows.prompts:
        return "No questions are asked before and after: the data has none. Give your own."
    if rows.held_out is not None:
        return f"{len(rows.prompts)} questions of held-out rows are asked before and after."
    if rows.num_spared:
        return f"{rows.num_spared} rows are not learned: their questions are asked before and after."
    return "The questions asked before and after are learned ones: the data has too few rows to spare any."


def held_out_rows(groups: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order given by the seed, about ``share`` of all rows."""
    if not share:
        return []
    sizes, wanted = Counter(groups), max(1, round(share * len(groups)))
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]
