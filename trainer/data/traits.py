"""What rows have that another tool may not read: found row by row, so that no export drops it in silence."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specs import dataset
from trainer.data.forms import messages
from trainer.data.forms.layouts import Layout
from trainer.data.forms.messages import Turn
from trainer.data.forms.readers import SYSTEM
from trainer.data.row import Row
from trainer.data.source import WITHOUT_ANSWERS
from trainer.data.template.completeness import thinks

_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def traits(row: Row, layout: Layout, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the optional columns that a row uses, and those of ``specs.dataset.TRAITS`` that it has.

    Args:
        row: The row under the names of roles.
        layout: What it is read in.
        values: The fields of its example.
    """
    used = tuple(name for name in layout.optional if row.get(name) not in (None, "", [], {}))
    turns, chosen, rejected = (values.get(name, ()) for name in ("turns", "chosen", "rejected"))
    return (*used, *_said(turns, chosen, rejected), *_form(row, layout, values, used))


def _said(turns: Sequence[Turn], chosen: Sequence[Turn], rejected: Sequence[Turn]) -> Iterator[str]:
    """Yield what is in the turns, whatever the columns."""
    every = (*turns, *chosen, *rejected)
    if any("tool_calls" in turn.more for turn in every):
        yield dataset.CALLS
    if any(thinks(turn) for turn in every):
        yield dataset.REASONING
    if any(not turn.learned for turn in (chosen or turns)):
        yield dataset.UNLEARNED
    if turns and turns[0].role == "text":
        if rejected:
            yield dataset.NO_SIDES
        return
    if max(len(chosen), len(rejected)) > 1:
        yield dataset.LONG
    if not _alternates((*turns, *chosen[:1])):
        yield dataset.UNEVEN


def _alternates(turns: Sequence[Turn]) -> bool:
    """Return whether a question or a tool's result and an answer take turns, an answer last."""
    said = [turn.role for turn in (turns[1:] if turns and turns[0].role == "system" else turns)]
    return len(said) % 2 == 0 and all(
        (role == "assistant") == bool(index % 2) and role != "system" for index, role in enumerate(said)
    )


def _form(row: Row, layout: Layout, values: Mapping[str, Any], used: Sequence[str]) -> Iterator[str]:
    """Yield whether a row says its example in the plainest form of its layout."""
    if layout.task in WITHOUT_ANSWERS:  # a text and its class have one form
        return
    told = [name for name in SYSTEM if name in used]
    turns = list(values.get("turns", ()))
    if told and turns and turns[0].role == "system":
        turns = turns[1:] if isinstance(row[told[0]], str) and row[told[0]] == turns[0].content else turns
    plain = len(told) < 2 and _same_tools(row, values) and not isinstance(row.get("history"), str)
    if layout.task == "preference" and {"chosen", "rejected"} <= set(layout.roles):
        form = _pair(row, layout, turns, values) if plain else ""
        if form != "texts":
            yield dataset.LISTS if form == "lists" else dataset.REWRITTEN
    elif not plain or not _is_plain(row, layout, turns):
        yield dataset.REWRITTEN


def _same_tools(row: Row, values: Mapping[str, Any]) -> bool:
    return list(values.get("tools", ())) == (messages.parsed(row.get("tools")) or [])


def _is_plain(row: Row, layout: Layout, turns: Sequence[Turn]) -> bool:
    if layout.task == "text":
        return isinstance(row["text"], str)
    if layout.task != "answers":
        return False
    if layout.roles == ("messages",):
        return _are_messages(row["messages"], turns)
    if layout.roles == ("conversations",):
        said = [{"from": _SHAREGPT.get(turn.role), "value": turn.content} for turn in turns]
        return not any(turn.more for turn in turns) and _read(row["conversations"]) == said
    return _is_question(row, layout.roles[0], turns[:-1]) and _is_answer(row[layout.roles[1]], turns[-1:])


def _pair(row: Row, layout: Layout, turns: Sequence[Turn], values: Mapping[str, Any]) -> str:
    """Return whether a pair is of texts or of lists of messages; nothing if it is of neither."""
    question = next((role for role in layout.roles if role not in {"chosen", "rejected"}), "")
    chosen, rejected = values["chosen"], values["rejected"]
    if not question:
        whole = all(
            _are_messages(row[side], (*turns, *said)) for side, said in (("chosen", chosen), ("rejected", rejected))
        )
        return "lists" if whole else ""
    if _is_question(row, question, turns) and all(
        _is_answer(row[side], said) for side, said in (("chosen", chosen), ("rejected", rejected))
    ):
        return "texts"
    lists = all(
        _are_messages(row[name], said) for name, said in ((question, turns), ("chosen", chosen), ("rejected", rejected))
    )
    return "lists" if lists else ""


def _is_question(row: Row, name: str, turns: Sequence[Turn]) -> bool:
    around = [row[role] for role in ("input", "context") if row.get(role) not in (None, "", [])]
    if not turns or not all(isinstance(words, str) for words in (row[name], *around)):
        return False
    parts = [row[name], *around] if name == "instruction" else [*around, row[name]]
    return turns[-1].role == "user" and turns[-1].content == "\n\n".join(part for part in parts if part.strip())


def _is_answer(value: Any, said: Sequence[Turn]) -> bool:
    return len(said) == 1 and said[0].role == "assistant" and not said[0].more and value == said[0].content


def _are_messages(value: Any, turns: Sequence[Turn]) -> bool:
    return _read(value) == [turn.message() for turn in turns]


def _read(value: Any) -> Any:
    """Return messages without the keys that nobody reads."""
    if not isinstance(value, list):
        return value
    return [
        {key: said for key, said in entry.items() if key in messages.READ_KEYS} if isinstance(entry, dict) else entry
        for entry in value
    ]
