"""The rows of a run: tokenized into a file, with skipped ones recorded, and split into training and held-out rows."""

import hashlib
import itertools
import shutil
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from specs import DataError, FinetunePlan
from trainer import files
from trainer.data.layouts import Example, examples
from trainer.data.reading import Finding
from trainer.data.rendering import chat_text, labelled, rendered
from trainer.failure import StopRequestedError
from trainer.runs.session import Session
from trainer.worker import distributed

ROWS = "rows"
"""Folder of the tokenized rows within the run's folder, while the run is active."""

_DEFAULT_PROMPTS = 3
_KEPT_FINDINGS = 100
_BATCH = 512
"""How many rows are held in memory before they are written."""
_SIZE = 4
"""Bytes on disk per byte of data: two columns of 4 bytes per token of about 4 bytes, and again when packed."""

_TOKENS = pyarrow.schema(
    {
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "labels": pyarrow.list_(pyarrow.int32()),
        "length": pyarrow.int32(),
        "group": pyarrow.int64(),
    }
)
_PAIRS = pyarrow.schema(
    {"prompt": pyarrow.string(), "chosen": pyarrow.string(), "rejected": pyarrow.string(), "group": pyarrow.int64()}
)


class _Reading:
    """One pass over the data: its tokenized rows, and what is worth recording about it."""

    def __init__(self, session: Session, tokenizer: PreTrainedTokenizerBase) -> None:
        self._session, self._tokenizer = session, tokenizer
        self.rows = self.skipped = 0
        self.findings: list[str] = []
        self.prompts: list[str] = []

    def rows_to_train(self) -> Iterator[dict[str, Any]]:
        """Yield the rows to train on, and count the skipped ones."""
        plan = self._session.plan
        for entry in examples(self._session.run.data):
            row = None if isinstance(entry, Finding) else _training_row(entry, self._tokenizer, plan)
            if isinstance(entry, Finding):
                self._skip(entry.sentence)
            elif row is None:
                self._skip(f"Row {entry.row}: its answer starts after max_length ({plan.max_length} tokens).")
            else:
                self.rows += 1
                if len(self.prompts) < _DEFAULT_PROMPTS:
                    self.prompts.extend(turn.content for turn in entry.turns[:1] if turn.role == "user")
                yield {**row, "group": _group(entry)}

    def _skip(self, sentence: str) -> None:
        self.skipped += 1
        if len(self.findings) < _KEPT_FINDINGS:
            self.findings.append(sentence)

    def note(self) -> None:
        """Record in the store what was found.

        Raises:
            DataError: If there is no row to train on.
        """
        self._session.details(rows=self.rows, skipped=self.skipped, findings=self.findings)
        first = self.findings[0] if self.findings else ""
        if not self.rows:
            raise DataError(Path(self._session.run.data.path).name, "has no row to train on", None, first)
        if self.skipped:
            self._session.event("warning", f"{self.skipped:,} rows skipped. The first: {first}")


@contextmanager
def tokenized_rows(session: Session, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Dataset, tuple[str, ...]]]:
    """Yield the tokenized rows, read from disk as needed, and the prompts to answer before and after.

    Raises:
        DataError: If the data has changed, or has no row to train on.
        StopRequestedError: If somebody asked the run to stop in the meantime.
    """
    folder = session.folder / ROWS
    disable_progress_bars()
    try:
        prompts = distributed.from_leader(_written(session, tokenizer, folder) if session.leads else ())
        yield Dataset.from_file(str(folder / "rows.arrow")), prompts
    finally:
        if session.leads:
            shutil.rmtree(folder, ignore_errors=True)


def _written(session: Session, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[str, ...]:
    """Tokenize the data into a file in the folder; return the prompts to answer."""
    source = session.run.data
    session.details(data_sha256=data_fingerprint(session))
    shutil.rmtree(folder, ignore_errors=True)  # left by a worker that was killed
    folder.mkdir()
    files.require_space(folder, _SIZE * Path(source.path).stat().st_size, "tokenizing the data")
    reading = _Reading(session, tokenizer)
    _write(reading.rows_to_train(), folder / "rows.arrow", session)
    reading.note()
    return source.prompts or tuple(reading.prompts)


def _write(rows: Iterator[Mapping[str, Any]], path: Path, session: Session) -> None:
    """Write rows as they come, so that only a few are in memory at once."""
    first = next(rows, None)
    schema = _PAIRS if first is not None and "chosen" in first else _TOKENS
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


def _training_row(example: Example, tokenizer: Any, plan: FinetunePlan) -> dict[str, Any] | None:
    """Return a row as TRL expects it: tokens with labels, or a preference pair as text."""
    if example.chosen is not None:
        prompt = chat_text(example.turns, tokenizer, ask=True)
        end = tokenizer.eos_token or ""
        return {"prompt": prompt, "chosen": f"{example.chosen}{end}", "rejected": f"{example.rejected}{end}"}
    text = rendered(example, tokenizer)
    row = labelled(text, tokenizer, max_length=plan.max_length, whole=not plan.completion_only_loss)
    return None if row is None else {**row, "length": len(row["input_ids"])}


def _group(example: Example) -> int:
    """Return what examples of the same question share, so that no question is both trained on and evaluated."""
    asked = "\n".join(turn.content for turn in example.turns if turn.role != "assistant")
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big", signed=True)


def split_rows(data: Dataset, plan: FinetunePlan) -> tuple[Dataset, Dataset | None]:
    """Return the rows to train on and the rows to evaluate on, if any.

    Raises:
        DataError: If no row is left to train on.
    """
    groups = array("q", data["group"]) if plan.eval_split else array("q")
    held_out = held_out_rows(groups, share=plan.eval_split, seed=plan.seed)
    rows = data.remove_columns("group")
    if not held_out:
        return rows, None
    apart = set(held_out)
    learned = [row for row in range(len(data)) if row not in apart]
    if not learned:
        raise DataError("eval_split", "leaves no row to train on", plan.eval_split, "Lower eval_split or add rows")
    return rows.select(learned), rows.select(held_out)


def held_out_rows(groups: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order given by the seed, about ``share`` of all rows."""
    if not share:
        return []
    sizes, wanted = Counter(groups), max(1, round(share * len(groups)))
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]
