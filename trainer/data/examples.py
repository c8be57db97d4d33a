"""Each row of the data as an example to learn from, or as a finding that says why it is none."""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data.files.reading import rows
from trainer.data.forms import messages, preferences, related
from trainer.data.forms.classes import BETWEEN
from trainer.data.forms.layouts import LAYOUTS, ROLES, Layout, recognised_layout
from trainer.data.forms.messages import Turn
from trainer.data.forms.passages import Passage
from trainer.data.forms.related import Related
from trainer.data.row import Finding, Row, UnreadableError
from trainer.data.source import WITHOUT_ANSWERS, DataSource
from trainer.data.traits import traits

_ROWS_WITHOUT_LAYOUT = 1_000
"""How many rows at the beginning may fit no layout before the file is refused."""

FEW_BAD = 1

BAD_SHARE = 0.1
"""A file is refused if more rows than these cannot be trained on: one, or a tenth of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of the data in the one form that training uses."""

    row: int = 0
    """Number of the row in the file, from 1."""
    turns: tuple[Turn, ...]
    """The conversation; of pairs and marked answers what comes before the answer."""
    layout: str = ""
    """Name of the layout that the row was read in."""
    roles: tuple[str, ...] = field(default=(), hash=False, compare=False)
    """The roles that this layout needs."""
    task: str = "answers"
    """One of ``trainer.data.source.TASKS``."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """JSON schemas of the functions that may be called."""
    chosen: tuple[Turn, ...] = ()
    """The better answer of a pair, or an answer that is marked good or bad."""
    rejected: tuple[Turn, ...] = ()
    """The worse answer of a pair."""
    label: bool | str | None = None
    """Whether a marked answer is good; the class of a text."""
    words: tuple[str, ...] = ()
    """The words of a text that have tags."""
    tags: tuple[str, ...] = ()
    """The tag of each word."""
    negatives: tuple[str, ...] = ()
    """Texts that do not belong to the first one."""
    score: float | None = None
    """How alike two texts are."""
    passage: Passage | None = None
    """The same question with the text that its answer is cut out of, where there is one."""
    unused: tuple[str, ...] = field(default=(), hash=False, compare=False)
    """Columns and keys of messages that hold something and were not read."""
    traits: tuple[str, ...] = field(default=(), hash=False, compare=False)
    """Optional columns that were read, and what another tool may not read: ``specs.dataset.TRAITS``."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """All that it can be taken for, of ``trainer.data.source.TASKS``."""
        found = (self.task, "extraction") if self.passage else (self.task,)
        is_pair = self.task == "answers" and not self.tools and related.is_pair(self.turns)
        return (*found, "related") if is_pair else found

    @property
    def identity(self) -> int:
        """A number that rows of the same content share."""
        spoken = (*self.turns, *self.chosen, *self.rejected)
        more = [turn.more for turn in spoken if turn.more]
        beyond = json.dumps([more, self.tools], sort_keys=True, default=str) if more or self.tools else ""
        others = (self.negatives, self.score)
        return hash((self.turns, self.chosen, self.rejected, self.label, self.tags, others, beyond))


def examples(source: DataSource) -> Iterator[Example | Finding]:
    """Yield each row of a file as an example, or as a finding that says why it is none.

    Raises:
        DataError: If the file cannot be read, is empty, has an unknown layout, or lacks a column that was named.
    """
    _require_roles(source)
    layout: Layout | None = None
    waiting: list[tuple[int, Row]] = []
    seen: dict[str, None] = {}
    number = 0
    for number, row in rows(Path(source.path), source.split):
        if isinstance(row, Finding):
            yield row
            continue
        seen.update(dict.fromkeys(row) if source.columns else {})
        layout = layout or _layout(_named(row, source.columns))
        waiting.append((number, row))
        if layout is not None:
            yield from (_example(at, early, layout, source) for at, early in waiting)
            waiting.clear()
        elif len(waiting) > _ROWS_WITHOUT_LAYOUT:
            break
    _require_some(source, number, seen, waiting)


def texts_of(example: Example) -> tuple[str, ...]:
    """Return the one or two texts that have a class."""
    return tuple(turn.content for turn in example.turns)


def related_of(example: Example) -> Related:
    """Return the texts of an example that belong together: of a question and its answer, those two.

    Raises:
        UnreadableError: If it has not two texts.
    """
    if example.task in {"related", "similarity"}:
        anchor, positive = texts_of(example)
        return Related(anchor, positive, example.negatives, example.score)
    if "related" not in example.kinds:
        raise UnreadableError("is no question with one answer, of which embeddings learn the likeness")
    *asked, answer = texts_of(example)
    return Related(BETWEEN.join(asked), answer)


def _layout(named: Row) -> Layout | None:
    return next((known for known in LAYOUTS if known.fits(named)), None)


def _require_some(source: DataSource, number: int, seen: Collection[str], waiting: Sequence[tuple[int, Row]]) -> None:
    """Refuse a file without rows, without a column that was named, or without a layout."""
    name = Path(source.path).name
    if number == 0:
        raise DataError(name, "must have at least one row", 0, "Choose a file with data")
    wrong = next((column for column in source.columns.values() if seen and column not in seen), None)
    if wrong is not None:
        raise DataError(wrong, f"is no column of {name[:60]}", None, f"It has {', '.join(map(str, seen))}"[:120])
    if waiting:
        recognised_layout(_named(waiting[0][1], source.columns), source.path)


def first_example(source: DataSource) -> Example:
    """Return the first row that can be trained on, without reading further.

    Raises:
        DataError: If the file cannot be read, or has no such row.
    """
    finding: Finding | None = None
    for entry in examples(source):
        if isinstance(entry, Example):
            return entry
        finding = finding or entry
    raise DataError(Path(source.path).name, "has no row to train on", None, finding.sentence if finding else "")


def require_mostly_good(path: str, *, total: int, reasons: Mapping[str, int]) -> None:
    """Refuse data of which more than a tenth cannot be trained on.

    Args:
        path: The file.
        total: All its rows.
        reasons: How many rows were skipped for each reason.

    Raises:
        DataError: With the three commonest reasons.
    """
    bad = sum(reasons.values())
    if bad <= max(FEW_BAD, BAD_SHARE * total):
        return
    commonest = sorted(reasons.items(), key=lambda entry: -entry[1])[:3]
    room = 160 // len(commonest)
    told = "; ".join(
        f"{count:,} x {reason if len(reason) <= room else reason[:room] + '...'}" for reason, count in commonest
    )
    rule = f"{bad:,} of {total:,} rows cannot be trained on, at most a tenth may be"
    raise DataError(Path(path).name[-50:], rule, None, f"Commonest: {told}")


TRAINED = frozenset({"answers", "text", "preference", "classification", "tags", "related", "similarity"})
"""The tasks that a run can train for."""

_NOT_YET = {
    "unpaired": (
        "holds answers marked good or bad (unpaired preference, KTO), which a run cannot train on yet",
        "Name prompt and completion to learn every answer, good or bad, or give pairs",
    ),
}


def require_trained(task: str, path: str) -> None:
    """Refuse data for a task that no run can train for yet, with what a person can do instead.

    Raises:
        DataError: If it is such a task.
    """
    if task not in TRAINED:
        rule, way_out = _NOT_YET[task]
        raise DataError(Path(path).name[:60], rule, None, way_out)


def _require_roles(source: DataSource) -> None:
    unknown = next((role for role in source.columns if role not in ROLES), None)
    if unknown is not None:
        close = ", ".join(difflib.get_close_matches(unknown, sorted(ROLES), n=3))
        raise DataError("columns", "must name roles that there are", unknown, f"Nearest: {close}" if close else "")


def _named(row: Row, columns: Mapping[str, str]) -> Row:
    """Return a row under the names of roles, where a person said which column plays which role."""
    if not columns:
        return row
    return {role: row.get(column) for role, column in columns.items()}


def _example(number: int, row: Row, layout: Layout, source: DataSource) -> Example | Finding:
    named = _named(row, source.columns)
    try:
        _require_columns(named, layout)
        _require_nothing_that_changes(row, layout, source)
        values = dict(layout.read(named))
        unread = values.pop("unused", ())
        made = Example(
            row=number,
            layout=layout.name,
            roles=layout.roles,
            task=layout.task,
            unused=(*_unused(row, named, layout, source.columns), *unread),
            traits=traits(named, layout, values),
            **values,
        )
        _require_something_to_learn(made)
    except UnreadableError as error:
        return Finding(row=number, reason=str(error))
    return made


def _require_columns(row: Row, layout: Layout) -> None:
    missing = next((role for role in layout.roles if row.get(role) in (None, "", [])), None)
    if missing is not None:
        raise UnreadableError(f"{missing} is empty")


_TEXT_ONLY = "only text is trained"
_CHANGING = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _TEXT_ONLY),
    **dict.fromkeys(
        ("reasoning", "reasoning_content", "thinking"), "it belongs into messages, as reasoning_content of the answer"
    ),
    "functions": "tools are read from a column of that name",
}
"""Columns without which a row would say something else, and why they are not read."""
_JUDGING = ("label", "kto_tag", "is_correct", "is_good", "correct", "feedback", "accepted", "desirable")
"""Columns that may say that an answer is bad."""


def _require_nothing_that_changes(row: Row, layout: Layout, source: DataSource) -> None:
    """Refuse a row that would be learned as what it is not; whoever names the columns by hand insists."""
    if source.columns or layout.task in WITHOUT_ANSWERS:
        return
    read = {*layout.roles, *layout.optional}
    for name, why in _CHANGING.items():
        if name not in read and row.get(name) not in (None, "", [], {}):
            raise UnreadableError(f"has {name}, which is not read: {why}; name the columns to leave it out")
    if layout.task == "answers":
        judge = next((name for name in _JUDGING if name in row and preferences.is_marked_bad(row[name])), None)
        if judge is not None:
            raise UnreadableError(f"has an answer that {judge} calls bad")
        if "weight" in row and str(row["weight"]) in {"0", "0.0", "False"}:
            raise UnreadableError("has the weight 0")


def _unused(row: Row, named: Row, layout: Layout, columns: Mapping[str, str]) -> tuple[str, ...]:
    read = {*layout.roles, *layout.optional}
    names = {columns.get(role, role) for role in read} if columns else read
    unused = [str(name) for name, value in row.items() if name not in names and value not in (None, "", [], {})]
    for role in ("messages", "conversations"):
        if role in read and named.get(role) is not None:
            unused += [f"{role}.{key}" for key in sorted(messages.unused_keys(named[role]))]
    return tuple(unused)


def _require_something_to_learn(example: Example) -> None:
    if example.task in WITHOUT_ANSWERS:
        counted = example.turns if example.task in {"related", "similarity"} else example.turns[:1]
        if not all(turn.content.strip() for turn in counted):
            raise UnreadableError("has an empty text")
        return
    said = (*example.turns, *example.chosen) if example.task in {"answers", "text"} else example.chosen
    answers = [turn for turn in said if turn.role in {"assistant", "text"}]
    if not answers:
        raise UnreadableError("has no answer of the assistant")
    if example.task in {"preference", "unpaired"} and not example.turns:
        raise UnreadableError("has no question before the answer")
    _require_comparable(example)
    for answer in (answers, example.rejected) if example.rejected else (answers,):
        if not any(turn.content.strip() or turn.more.keys() & {"tool_calls"} for turn in answer):
            raise UnreadableError("has an empty answer")
    if example.task == "answers" and not any(turn.learned for turn in answers):
        raise UnreadableError("has no answer that is learned")


def _require_comparable(example: Example) -> None:
    """Refuse a pair whose answers are the same, or of which one shall not be learned."""
    sides = [(side, [turn.more for turn in side]) for side in (example.chosen, example.rejected)]
    if example.task == "preference" and sides[0] == sides[1]:
        raise UnreadableError("has the same answer as chosen and as rejected")
    if not all(turn.learned for side, _ in sides for turn in side):
        raise UnreadableError("has an answer with the weight 0")
