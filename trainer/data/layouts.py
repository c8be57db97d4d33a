"""The layouts of training data: which columns hold what is said by whom, and what each says.

What each layout is read from stands beside it in ``LAYOUTS``; the first whose columns a row has is taken.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specs import DataError
from trainer.data import messages, preferences
from trainer.data.columns import proposed_columns
from trainer.data.files.reading import Row
from trainer.data.messages import Turn, UnreadableError
from trainer.data.preferences import Scored

_LONGEST_HINT = 66
"""Characters of named columns that a sentence has room for; more would have to be cut, and a cut name names nothing."""


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
        f"Say which is which, such as {likely}" if 0 < len(likely) <= _LONGEST_HINT else "Rename the columns",
    )


def _conversation(role: str) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        return {"turns": _with_system(messages.turns(row[role]), row), "tools": messages.tools(row.get("tools"))}

    return read


def _with_system(turns: tuple[Turn, ...], row: Row) -> tuple[Turn, ...]:
    """Return turns that begin with what a column says to the system."""
    said = {messages.text(row[name], name) for name in SYSTEM if row.get(name) not in (None, "")}
    if not said:
        return turns
    if len(said) > 1:
        raise UnreadableError(f"has two system columns that differ: {' and '.join(SYSTEM)}")
    (system,) = said
    if turns[0].role == "system":
        if turns[0].content.strip() == system.strip():
            return turns
        raise UnreadableError("has a system column and another system message")
    return (Turn(role="system", content=system), *turns)


def _pair(question: str, answer: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a question and its answer, each as text or as messages."""

    def read(row: Row) -> Mapping[str, Any]:
        answered = _answered(row.get(answer), answer)
        asked = _asked(row, question)
        if messages.is_messages(row.get(question)):  # TRL: of a prompt and its completion, the completion is learned
            asked = tuple(replace(turn, learned=turn.role != "assistant") for turn in asked)
        return {
            "turns": (*_with_system(asked, row), *answered),
            "tools": messages.tools(row.get("tools")),
            "unused": (f"{answer} but the first",) if _has_other_answers(row.get(answer)) else (),
        }

    return read


def _asked(row: Row, question: str) -> tuple[Turn, ...]:
    """Return what came before an answer: earlier turns, and the question with what it is about."""
    return (*_history(row.get("history")), *_question(row, question))


def _question(row: Row, question: str) -> tuple[Turn, ...]:
    value = row.get(question)
    if messages.is_messages(value):
        _require_nothing_around(row, question)
        return messages.turns(value)
    words = messages.text(value, question)
    # What a task is about follows an instruction, as in Alpaca and Dolly, and comes before a question, as in SQuAD.
    around = [messages.text(row[name], name) for name in ("input", "context") if row.get(name) not in (None, "", [])]
    parts = [words, *around] if question == "instruction" else [*around, words]
    return (Turn(role="user", content="\n\n".join(part for part in parts if part.strip())),)


def _require_nothing_around(row: Row, question: str) -> None:
    """Refuse what would have to stand beside a question that is a conversation."""
    beside = next((name for name in ("input", "context") if row.get(name) not in (None, "", [])), None)
    if beside is not None:
        raise UnreadableError(f"has {question} as a conversation and {beside} beside it, which has no place in it")


def _has_other_answers(value: Any) -> bool:
    """Return whether SQuAD's answers differ, of which the first is learned."""
    found = messages.parsed(value)
    texts = found.get("text") if isinstance(found, Mapping) else None
    return isinstance(texts, list | tuple) and len(set(map(str, texts))) > 1


def _answered(value: Any, name: str) -> tuple[Turn, ...]:
    """Return an answer: text, messages, or the first of SQuAD's answers."""
    if messages.is_messages(value):
        return messages.turns(value)
    found = messages.parsed(value) if name == "answers" else value
    if isinstance(found, Mapping) and isinstance(found.get("text"), Sequence):
        found = found["text"] if isinstance(found["text"], str) else next(iter(found["text"]), None)
    if found is None or found == "" or found != found:  # not a number is unequal to itself
        raise UnreadableError(f"{name} is empty")
    if isinstance(found, bool | int | float):
        found = json.dumps(found)
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


def _compared(question: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a pair; without the name of a question, the two answers begin with it."""

    def read(row: Row) -> Mapping[str, Any]:
        value = row.get(question)
        if isinstance(value, str) and preferences.is_dialogue(value):
            _require_nothing_around(row, question)
            before = (*_history(row.get("history")), *preferences.dialogue(messages.text(value, question)))
        else:
            before = _asked(row, question) if question else tuple(_history(row.get("history")))
        asked, chosen, rejected = preferences.pair(row, before)
        return {
            "turns": _with_system(asked, row) if asked else (),
            "chosen": chosen,
            "rejected": rejected,
            "tools": messages.tools(row.get("tools")),
        }

    return read


def _scored(question: str, scored: Scored) -> Callable[[Row], Mapping[str, Any]]:
    def read(row: Row) -> Mapping[str, Any]:
        # SHP's history is the question itself.
        asked = _question(row, question) if question == "history" else _asked(row, question)
        chosen, rejected = preferences.ranked(row, scored)
        return {
            "turns": _with_system(asked, row),
            "chosen": chosen,
            "rejected": rejected,
            "tools": messages.tools(row.get("tools")),
        }

    return read


SYSTEM = ("system", "system_prompt")
"""Columns that hold what is said to the system."""

_AROUND = (*SYSTEM, "tools", "context", "input", "history")
_TRL = "TRL, dataset formats and types"
_FACTORY = "LLaMA-Factory, data/README.md"
_AXOLOTL = "Axolotl, dataset formats"
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
    for question in ("prompt", "question", "instruction", "query", "messages", "conversations", ""):
        around = _AROUND if question else tuple(name for name in _AROUND if name not in {"context", "input"})
        yield Layout(
            name="preference",
            task="preference",
            roles=(*filter(None, [question]), "chosen", "rejected"),
            optional=(*around, *_SCORES),
            read=_compared(question),
            source=f"{_TRL}; Anthropic HH-RLHF; {_FACTORY}, preference",
        )


def _scored_layouts() -> Iterable[Layout]:
    for asked in ("prompt", "question", "instruction", "history"):
        for scored in preferences.SCORED:
            yield Layout(
                name="scored pair",
                task="preference",
                roles=(asked, *scored.answers, *scored.marks),
                optional=tuple(name for name in _AROUND if name != asked),
                read=_scored(asked, scored),
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

ROLES = frozenset(name for layout in LAYOUTS for name in (*layout.roles, *layout.optional))
"""Every role that a column can have."""
