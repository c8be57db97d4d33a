"""How the rows of each layout are read: what gives the fields of an example from columns named by their roles."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainer.data.forms import classes, messages, passages, preferences, related, tagged
from trainer.data.forms.messages import Turn
from trainer.data.forms.preferences import Scored
from trainer.data.row import Row, UnreadableError

SYSTEM = ("system", "system_prompt")
"""Columns that hold what is said to the system."""


def conversation(role: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a column of messages."""

    def read(row: Row) -> Mapping[str, Any]:
        return {"turns": _with_system(messages.turns(row[role]), row), "tools": messages.tools(row.get("tools"))}

    return read


def pair(question: str, answer: str) -> Callable[[Row], Mapping[str, Any]]:
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
            **({"passage": passages.passage(row)} if answer == "answers" else {}),
        }

    return read


def compared(question: str) -> Callable[[Row], Mapping[str, Any]]:
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


def scored_pair(question: str, scored: Scored) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads two answers, of which marks say which is better."""

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


def translated(row: Row) -> Mapping[str, Any]:
    """Return a text and its translation, in the order in which the row holds the two languages."""
    found = messages.parsed(row.get("translation"))
    if not isinstance(found, Mapping) or len(found) != 2:
        raise UnreadableError("translation must hold a text in each of two languages")
    first, second = (messages.text(said, f"translation.{language}") for language, said in found.items())
    if not first.strip():
        raise UnreadableError(f"translation.{next(iter(found))} is empty")
    return {"turns": (Turn(role="user", content=first), Turn(role="assistant", content=second))}


def raw_text(row: Row) -> Mapping[str, Any]:
    """Return the fields of a row of plain text."""
    return {"turns": (Turn(role="text", content=messages.text(row["text"], "text")),)}


def classified(*texts: str, label: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads texts and the column of their class."""

    def read(row: Row) -> Mapping[str, Any]:
        said = tuple(Turn(role="text", content=messages.text(row.get(name), name)) for name in texts)
        return {"turns": said, "label": classes.class_name(row.get(label), label)}

    return read


def tagged_words(words: str, tags: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads words and the column of their tags."""

    def read(row: Row) -> Mapping[str, Any]:
        said = tagged.words_of(row.get(words), words)
        found = tagged.tags_of(row.get(tags), tags, words=len(said))
        return {"turns": (Turn(role="text", content=" ".join(said)),), "words": said, "tags": found}

    return read


def belonging(anchor: str, positive: str, wrong: Sequence[str]) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads a text, its match and wrong texts beside it."""

    def read(row: Row) -> Mapping[str, Any]:
        right, *more = related.passages(row.get(positive), positive)
        said = (messages.text(row.get(anchor), anchor), right)
        return {
            "turns": tuple(Turn(role="text", content=words) for words in said),
            "negatives": tuple(words for words in related.negatives(row, wrong) if words.strip()),
            "unused": (f"{positive} but the first",) if more else (),
        }

    return read


def alike(first: str, second: str, score: str) -> Callable[[Row], Mapping[str, Any]]:
    """Return what reads two texts and the score of how alike they are."""

    def read(row: Row) -> Mapping[str, Any]:
        said = tuple(Turn(role="text", content=messages.text(row.get(name), name)) for name in (first, second))
        return {"turns": said, "score": related.score_of(row.get(score), score)}

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
    found = passages.answers_of(value)
    return found is not None and len(set(map(str, found[0]))) > 1


def _answered(value: Any, name: str) -> tuple[Turn, ...]:
    """Return an answer: text, messages, or the first of SQuAD's answers."""
    if messages.is_messages(value):
        return messages.turns(value)
    found = messages.parsed(value) if name == "answers" else value
    if not isinstance(found, str) and (several := passages.answers_of(found)) is not None:
        found = next(iter(several[0]), None)
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
