"""The layouts of training data: which columns hold what is said by whom, and each row as an example to learn from.

What each layout is read from stands beside it in ``LAYOUTS``; the first whose columns a row has is taken.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data import messages, preferences
from trainer.data.columns import proposed_columns
from trainer.data.messages import Turn, UnreadableError
from trainer.data.reading import Finding, Row, rows
from trainer.data.source import DataSource

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
    unused: tuple[str, ...] = field(default=(), hash=False, compare=False)
    """Columns and keys of messages that hold something and were not read."""

    @property
    def identity(self) -> int:
        """A number that rows of the same content share."""
        spoken = (*self.turns, *self.chosen, *self.rejected)
        more = [turn.more for turn in spoken if turn.more]
        beyond = json.dumps([more, self.tools], sort_keys=True, default=str) if more or self.tools else ""
        return hash((self.turns, self.chosen, self.rejected, self.label, beyond))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way in which data sets arrange their columns."""

    name: str
    task: str
    roles: tuple[str, ...]
    """The columns that it needs."""
    optional: tuple[str, ...] = ()
    read: Callable[[Row], Mapping[str, Any]]
    """Gives the fields of the example of a row whose columns have the names of the roles."""
    source: str
    """Whose documentation describes it."""

    def fits(self, row: Row) -> bool:
        """Return whether a row has its columns, each with something in it."""
        return all(row.get(role) not in (None, "") for role in self.roles) and (
            not {"messages", "conversations"} & set(self.roles)
            or all(messages.is_messages(row[role]) for role in self.roles if role in {"messages", "conversations"})
        )


def examples(source: DataSource) -> Iterator[Example | Finding]:
    """Yield each row of a file as an example, or as a finding that says why it is none.

    Raises:
        DataError: If the file cannot be read, is empty, or has an unknown layout.
    """
    path = Path(source.path)
    layout: Layout | None = None
    waiting: list[tuple[int, Row]] = []
    number = 0
    for number, row in rows(path, source.split):
        if isinstance(row, Finding):
            yield row
            continue
        named = _named(row, source.columns)
        if layout is None:
            layout = next((known for known in LAYOUTS if known.fits(named)), None)
            if layout is None:
                waiting.append((number, row))
                _require_hope(waiting, source)
                continue
            yield from (_example(at, early, layout, source) for at, early in waiting)
        yield _example(number, row, layout, source)
    if number == 0:
        raise DataError(path.name, "must have at least one row", 0, "Choose a file with data")
    if layout is None and waiting:
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


def recognised_layout(row: Row, path: str) -> Layout:
    """Return the layout whose columns a row has.

    Raises:
        DataError: If no known layout fits; the columns can then be named by hand.
    """
    for layout in LAYOUTS:
        if layout.fits(row):
            return layout
    likely = ", ".join(f"{role}={column}" for role, column in proposed_columns(row).items())
    raise DataError(
        Path(path).name,
        "has the columns of no known layout, such as messages, prompt + completion, or prompt + chosen + rejected",
        ", ".join(sorted(map(str, row)))[:80],
        f"Say which is which, such as {likely}"[:90] if likely else "Rename the columns",
    )


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


TRAINED = frozenset({"answers", "text", "preference"})
"""The tasks that a run can train for."""

_NOT_YET = {
    "unpaired": (
        "holds answers marked good or bad (unpaired preference, KTO), which a run cannot train on yet",
        "Name prompt and completion to learn every answer, good or bad, or give pairs",
    ),
    "classification": (
        "holds texts with a class, which a run cannot train on yet",
        "Name text alone, or prompt and completion, to train a language model on it",
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


def _require_hope(waiting: Sequence[tuple[int, Row]], source: DataSource) -> None:
    if len(waiting) > _ROWS_WITHOUT_LAYOUT:
        recognised_layout(_named(waiting[0][1], source.columns), source.path)


def _named(row: Row, columns: Mapping[str, str]) -> Row:
    """Return a row under the names of roles, where a person said which column plays which role."""
    if not columns:
        return row
    return {role: row.get(column) for role, column in columns.items()}


def _example(number: int, row: Row, layout: Layout, source: DataSource) -> Example | Finding:
    named = _named(row, source.columns)
    try:
        _require_columns(named, layout)
        values = layout.read(named)
        made = Example(row=number, layout=layout.name, task=layout.task, **values)
        _require_something_to_learn(made)
    except UnreadableError as error:
        return Finding(row=number, reason=str(error))
    return _with_unused(made, row, named, layout, source.columns)


def _require_columns(row: Row, layout: Layout) -> None:
    missing = next((role for role in layout.roles if row.get(role) in (None, "", [])), None)
    if missing is not None:
        raise UnreadableError(f"{missing} is empty")


def _with_unused(made: Example, row: Row, named: Row, layout: Layout, columns: Mapping[str, str]) -> Example:
    read = {*layout.roles, *layout.optional}
    names = {columns.get(role, role) for role in read} if columns else read
    unused = [str(name) for name, value in row.items() if name not in names and value not in (None, "", [], {})]
    for role in ("messages", "conversations"):
        if role in read and named.get(role) is not None:
            unused += [f"{role}.{key}" for key in sorted(messages.unused_keys(named[role]))]
    if not unused:
        return made
    return Example(**{name: getattr(made, name) for name in made.__slots__ if name != "unused"}, unused=tuple(unused))


def _require_something_to_learn(example: Example) -> None:
    if example.task == "classification":
        if not example.turns[0].content.strip():
            raise UnreadableError("has an empty text")
        return
    said = (*example.turns, *example.chosen) if example.task in {"answers", "text"} else example.chosen
    answers = [turn for turn in said if turn.role in {"assistant", "text"}]
    if not answers:
        raise UnreadableError("has no answer of the assistant")
    if example.task in {"preference", "unpaired"} and not example.turns:
        raise UnreadableError("has no question before the answer")
    for answer in (answers, example.rejected) if example.rejected else (answers,):
        if not any(turn.content.strip() or turn.more.keys() & {"tool_calls"} for turn in answer):
            raise UnreadableError("has an empty answer")
    if example.task == "answers" and not any(turn.learned for turn in answers):
        raise UnreadableError("has no answer that is learned")


def _conversation(role: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        return {"turns": _with_system(messages.turns(row[role]), row), "tools": messages.tools(row.get("tools"))}

    return read


def _with_system(turns: tuple[Turn, ...], row: Row) -> tuple[Turn, ...]:
    """Return turns that begin with what a column says to the system."""
    said = next((row[name] for name in SYSTEM if row.get(name) not in (None, "")), None)
    if said is None:
        return turns
    system = messages.text(said, "system")
    if turns[0].role == "system":
        if turns[0].content.strip() == system.strip():
            return turns
        raise UnreadableError("has a system column and another system message")
    return (Turn(role="system", content=system), *turns)


def _pair(question: str, answer: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a question and its answer, each as text or as messages."""

    def read(row: Row) -> Mapping[str, Any]:
        asked = (*_history(row.get("history")), *_asked(row, question))
        answered = _answered(row.get(answer), answer)
        return {"turns": (*_with_system(asked, row), *answered), "tools": messages.tools(row.get("tools"))}

    return read


def _asked(row: Row, question: str) -> tuple[Turn, ...]:
    value = row.get(question)
    if messages.is_messages(value):
        return messages.turns(value)
    words = messages.text(value, question)
    # What a task is about follows an instruction, as in Alpaca and Dolly, and comes before a question, as in SQuAD.
    around = [messages.text(row[name], name) for name in ("input", "context") if row.get(name) not in (None, "", [])]
    parts = [words, *around] if question == "instruction" else [*around, words]
    return (Turn(role="user", content="\n\n".join(part for part in parts if part.strip())),)


def _answered(value: Any, name: str) -> tuple[Turn, ...]:
    """Return an answer: text, messages, or the first of SQuAD's answers."""
    if messages.is_messages(value):
        return messages.turns(value)
    found = messages.parsed(value) if name == "answers" else value
    if isinstance(found, Mapping) and isinstance(found.get("text"), Sequence):
        found = found["text"] if isinstance(found["text"], str) else next(iter(found["text"]), None)
    if found is None or found == "":
        raise UnreadableError(f"{name} is empty")
    if isinstance(found, bool | int | float):
        found = str(found)
    return (Turn(role="assistant", content=messages.text(found, name)),)


def _history(value: Any) -> Iterator[Turn]:
    """Yield earlier questions and answers: a list of pairs, as in LLaMA-Factory."""
    for pair in messages.parsed(value) or ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UnreadableError("history must be a list of pairs of question and answer")
        yield Turn(role="user", content=messages.text(pair[0], "history"))
        yield Turn(role="assistant", content=messages.text(pair[1], "history"))


def _raw_text(row: Row) -> Mapping[str, Any]:
    return {"turns": (Turn(role="text", content=messages.text(row["text"], "text")),)}


def _classified(*texts: str, label: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        said = tuple(Turn(role="text", content=messages.text(row.get(name), name)) for name in texts)
        value = row.get(label)
        if not isinstance(value, str | int | float) or value == "":
            raise UnreadableError(f"{label} must name a class, got {type(value).__name__}")
        return {"turns": said, "label": str(value)}

    return read


def _marked(answers: Layout, mark: str) -> Layout:
    """Return a layout of answers with a column that says whether each is good."""

    def read(row: Row) -> Mapping[str, Any]:
        values = dict(answers.read(row))
        *asked, last = values.pop("turns")
        return {**values, "turns": tuple(asked), "chosen": (last,), "label": preferences.is_good(row.get(mark), mark)}

    return Layout(
        name=f"{answers.name} with {mark}",
        task="unpaired",
        roles=(*answers.roles, mark),
        optional=answers.optional,
        read=read,
        source="TRL, dataset formats, unpaired preference; LLaMA-Factory, data/README.md, KTO",
    )


def _compared(row: Row) -> Mapping[str, Any]:
    asked, chosen, rejected = preferences.pair(row)
    return {
        "turns": _with_system(asked, row) if asked else (),
        "chosen": chosen,
        "rejected": rejected,
        "tools": messages.tools(row.get("tools")),
    }


SYSTEM = ("system", "system_prompt")
"""Columns that hold what is said to the system."""

_AROUND = (*SYSTEM, "tools", "context", "input", "history")
_TRL = "TRL, dataset formats and types"
_FACTORY = "LLaMA-Factory, data/README.md"
_AXOLOTL = "Axolotl, docs/dataset-formats"
_SCORES = ("score_chosen", "score_rejected")


def _answers(name: str, question: str, answer: str, source: str) -> Layout:
    return Layout(
        name=name,
        task="answers",
        roles=(question, answer),
        optional=_AROUND,
        read=_pair(question, answer),
        source=source,
    )


_CONVERSATIONS = (
    Layout(
        name="messages",
        task="answers",
        roles=("messages",),
        optional=(*SYSTEM, "tools"),
        read=_conversation("messages"),
        source=f"OpenAI, fine-tuning; {_TRL}",
    ),
    Layout(
        name="ShareGPT",
        task="answers",
        roles=("conversations",),
        optional=(*SYSTEM, "tools"),
        read=_conversation("conversations"),
        source=f"{_FACTORY}, ShareGPT format",
    ),
)
_PAIRS = (
    _answers("alpaca", "instruction", "output", f"Stanford Alpaca; {_FACTORY}"),
    _answers("prompt and completion", "prompt", "completion", _TRL),
    _answers("prompt and response", "prompt", "response", _AXOLOTL),
    _answers("question and answer", "question", "answer", f"{_AXOLOTL}, alpaca_chat.load_qa"),
    _answers("instruction and response", "instruction", "response", "Databricks Dolly 15k"),
    _answers("question and response", "question", "response", "OpenOrca"),
    _answers("query and response", "query", "response", "MetaMathQA"),
    _answers("question and answers", "question", "answers", "SQuAD"),
    _answers("problem and solution", "problem", "solution", "NuminaMath"),
)


def _compared_layouts() -> Iterable[Layout]:
    for asked in (("prompt",), ("question",), ("instruction",), ("query",), ("messages",), ("conversations",), ()):
        yield Layout(
            name="preference",
            task="preference",
            roles=(*asked, "chosen", "rejected"),
            optional=(*_AROUND, *_SCORES),
            read=_compared,
            source=f"{_TRL}; Anthropic HH-RLHF; {_FACTORY}, preference",
        )


def _scored_layouts() -> Iterable[Layout]:
    for asked in ("prompt", "question", "instruction", "history"):
        for scored in preferences.SCORED:
            yield Layout(
                name="scored pair",
                task="preference",
                roles=(asked, *scored.answers, *scored.marks),
                optional=(*SYSTEM, "tools"),
                read=preferences.reader(asked, scored),
                source=scored.source,
            )


LAYOUTS = (
    *_compared_layouts(),
    *_scored_layouts(),
    *(_marked(layout, mark) for mark in ("label", "kto_tag") for layout in (*_CONVERSATIONS, *_PAIRS)),
    *_CONVERSATIONS,
    *_PAIRS,
    Layout(
        name="pair of texts and label",
        task="classification",
        roles=("premise", "hypothesis", "label"),
        read=_classified("premise", "hypothesis", label="label"),
        source="SNLI, MultiNLI",
    ),
    Layout(
        name="pair of sentences and label",
        task="classification",
        roles=("sentence1", "sentence2", "label"),
        optional=("idx",),
        read=_classified("sentence1", "sentence2", label="label"),
        source="GLUE",
    ),
    Layout(
        name="text and label_text",
        task="classification",
        roles=("text", "label_text"),
        optional=("label",),
        read=_classified("text", label="label_text"),
        source="SetFit's data sets",
    ),
    *(
        Layout(
            name=f"{words} and {label}",
            task="classification",
            roles=(words, label),
            read=_classified(words, label=label),
            source="transformers, text classification",
        )
        for words in ("text", "sentence")
        for label in ("label", "labels", "category", "class", "sentiment")
    ),
    Layout(name="text", task="text", roles=("text",), read=_raw_text, source=_TRL),
)
"""Every layout that is recognised, the more specific first."""
