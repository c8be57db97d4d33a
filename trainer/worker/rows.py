"""The rows of a run: tokenized into a file, what was skipped or not read noted, and split into learned and held out."""

import hashlib
import itertools
import shutil
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from specs import TASK_TYPES, DataError, FinetunePlan
from specs.dataset import QUESTIONS, SPARED_SHARE, num_held_out, num_spared
from trainer import files
from trainer.data.examples import Example, examples, require_mostly_good, require_trained
from trainer.data.forms import classes
from trainer.data.rendering import Renderer
from trainer.data.row import Finding, UnreadableError
from trainer.data.source import DataSource
from trainer.failure import StopRequestedError
from trainer.results.evaluation import no_rows
from trainer.runs.feasibility import require_classes, require_task
from trainer.runs.session import Session
from trainer.worker import distributed
from trainer.worker.learning.making import ASIDE, RowMaker, schema_of

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a run learns from, what it is evaluated on, and what it is asked before and after."""

    learned: Dataset
    held_out: Dataset | None = None
    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """The classes of texts, or the tags of words, in the order of the model's outputs."""
    texts: int = 1
    """How many texts a model with a head reads together, 1 or 2."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """The data's answers to the prompts that are of it: its questions' answers, its texts' classes."""
    num_spared: int = 0
    """Rows that are neither learned nor evaluated on, since their questions are asked."""


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
            asides = {"group": _group(entry), "question": made.question, "answer": made.answer}
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
        yield data if other else data.select(_left_out(data, plan, asked=source.prompts))


def _left_out(data: Dataset, plan: FinetunePlan, *, asked: Sequence[str]) -> list[int]:
    """Return the rows that a run with this plan did not learn.

    Raises:
        DataError: If it learned all.
    """
    groups, strata = _groups_and_strata(data)
    held_out = stratified_rows(groups, strata, share=plan.eval_split, seed=plan.seed)
    left_out = held_out or ([] if asked else _spared_rows(data, groups, seed=plan.seed))
    if not left_out:
        raise no_rows()
    return left_out


def _groups_and_strata(data: Dataset) -> tuple[Sequence[Hashable], Sequence[Hashable]]:
    """Return for each row what it may not be torn apart from, and what it shall be held out in proportion to."""
    return array("q", data["group"]), data["label"] if "label" in data.column_names else [None] * len(data)


def _rows_of(folder: Path, session: Session) -> Rows:
    """Return the rows of the files in a folder: a split that is held out is a file of its own."""
    data, asked = Dataset.from_file(str(folder / _LEARNED)), session.run.data.prompts
    if not (folder / _HELD_OUT).exists():
        return split_rows(data, session.plan, asked=asked)
    held_out = Dataset.from_file(str(folder / _HELD_OUT))
    expected = _known(held_out, session.plan, asked) if asked else _questions(held_out, range(len(held_out)))
    return Rows(
        learned=_without_asides(data),
        held_out=_without_asides(held_out),
        prompts=asked or tuple(expected),
        expected=expected,
        classes=_classes(data, session.plan, held_out),
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


def split_rows(data: Dataset, plan: FinetunePlan, *, asked: tuple[str, ...] = ()) -> Rows:
    """Return the rows to learn from and those to evaluate on, and the questions to ask before and after.

    The questions are a person's own, or of rows that are not learned: those to evaluate on, else a few that are held
    out for this, where the data has enough.

    Raises:
        DataError: If no row is left to train on.
    """
    groups, strata = _groups_and_strata(data)
    held_out = stratified_rows(groups, strata, share=plan.eval_split, seed=plan.seed)
    spared = [] if asked or held_out else _spared_rows(data, groups, seed=plan.seed)
    expected = _known(data, plan, asked) if asked else _questions(data, held_out or spared or range(len(data)))
    prompts = asked or tuple(expected)
    rows, found = _without_asides(data), _classes(data, plan)
    apart = {*held_out, *spared}
    if not apart:
        return Rows(learned=rows, prompts=prompts, expected=expected, classes=found)
    learned = [row for row in range(len(data)) if row not in apart]
    if not learned:
        raise DataError("eval_split", "leaves no row to train on", plan.eval_split, "Lower eval_split or add rows")
    evaluated = rows.select(held_out) if held_out else None
    return Rows(
        learned=rows.select(learned),
        held_out=evaluated,
        prompts=prompts,
        expected=expected,
        num_spared=len(spared),
        classes=found,
    )


def _classes(data: Dataset, plan: FinetunePlan, held_out: Dataset | None = None) -> tuple[str, ...]:
    """Return the classes of the data in the order of the model's outputs; none of data without.

    Raises:
        PlanError: If they are not as many as the plan says.
        DataError: If only the held-out rows have one of them.
    """
    found = classes.in_order(_labels(data))
    if not found:
        return ()
    require_classes(plan, len(found))
    strange = sorted(_labels(held_out) - {*found}) if held_out is not None else []
    if strange:
        way_out = "Move rows of it into the split that is learned"
        raise DataError("evaluation split", "must have only classes that are learned", strange[0], way_out)
    return found


def _labels(data: Dataset) -> set[str]:
    """Return all classes of texts or tags of words in the data; none of data without."""
    if "label" in data.column_names:
        return set(data.unique("label"))
    if "tags" in data.column_names:
        return {tag for part in data.data.column("tags").chunks for tag in part.flatten().unique().to_pylist()} - {""}
    return set()


def _known(data: Dataset, plan: FinetunePlan, asked: Sequence[str]) -> Mapping[str, str]:
    """Return what the data has for each prompt of a person that is one of its texts; nothing where text is written."""
    if TASK_TYPES[plan.task_type].writes:
        return {}
    return {text: answer for text, answer in zip(data["question"], data["answer"], strict=True) if text in {*asked}}


def _without_asides(data: Dataset) -> Dataset:
    return data.remove_columns([name for name in ASIDE if name in data.column_names])


def _spared_rows(data: Dataset, groups: Sequence[Hashable], *, seed: int) -> list[int]:
    """Return rows whose questions are asked and which are not learned, or none where they would be missed."""
    if "question" not in data.column_names or not any(data["question"]):
        return []
    spared = _first_groups(groups, num_spared(len(data)), seed=seed)
    return spared if len(spared) <= SPARED_SHARE * len(data) else []


def _questions(data: Dataset, rows: Sequence[int]) -> dict[str, str]:
    """Return a few questions of rows, each once, with the answers that the rows have to them."""
    if "question" not in data.column_names:
        return {}
    found: dict[str, str] = {}
    for row in itertools.islice(rows, 10 * QUESTIONS):
        entry = data[row]
        found.setdefault(entry["question"], entry.get("answer") or "")
    return dict(itertools.islice(((asked, wanted) for asked, wanted in found.items() if asked), QUESTIONS))


def _told(rows: Rows, *, writes: bool) -> str:
    """Return where the questions come from."""
    if not writes:
        learned = "learned ones, since no row is held out" if rows.held_out is None else "of held-out rows"
        return f"{len(rows.prompts)} texts are given to the model at the end: they are {learned}."
    if not rows.prompts:
        return "No questions are asked before and after: the data has none. Give your own."
    if rows.held_out is not None:
        return f"{len(rows.prompts)} questions of held-out rows are asked before and after."
    if rows.num_spared:
        return f"{rows.num_spared} rows are not learned: their questions are asked before and after."
    return "The questions asked before and after are learned ones: the data has too few rows to spare any."


def stratified_rows(groups: Sequence[Hashable], strata: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: about ``share`` of each stratum, such as a class, and whole groups.

    A group belongs to the stratum of its first row; one that is the only one of its stratum is learned.
    """
    of_group = dict(zip(reversed(groups), reversed(strata), strict=True))
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(of_group[group], []).append(row)
    chosen: list[int] = []
    for rows in members.values():
        inside = [groups[row] for row in rows]
        if len(members) == 1 or len(set(inside)) > 1:
            chosen += (rows[place] for place in held_out_rows(inside, share=share, seed=seed))
    return sorted(chosen)


def held_out_rows(groups: Sequence[Hashable], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order given by the seed, about ``share`` of all rows."""
    return _first_groups(groups, num_held_out(len(groups), share), seed=seed)


def _first_groups(groups: Sequence[Hashable], wanted: int, *, seed: int) -> list[int]:
    """Return the rows of whole groups, in an order given by the seed, until so many are reached."""
    if not wanted:
        return []
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]
