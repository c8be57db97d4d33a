"""Proposes which column of a data set plays which role, where its layout is not recognised by itself."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.forms.messages import parsed

_WORDS: Mapping[str, tuple[str, ...]] = {
    "completion": ("completion", "answer", "response", "output", "reply", "target", "solution", "assistant", "summary"),
    "prompt": (
        "prompt",
        "question",
        "query",
        "instruction",
        "input",
        "problem",
        "user",
        "request",
        "source",
        "document",
        "anchor",
    ),
}
"""Words in the names of columns for each role, the role with the clearer words first."""

_WORSE = frozenset(
    {"rejected", "reject", "dispreferred", "unpreferred", "nonpreferred", "unaccepted", "disliked", "undesirable"}
    | {"worse", "worst", "loser", "losing", "lost", "negative", "neg", "bad", "wrong", "incorrect"}
    | {"distractor", "distractors", "hallucinated"}
)
_BETTER = frozenset(
    {"chosen", "preferred", "better", "best", "accepted", "winner", "winning", "won"}
    | {"positive", "pos", "good", "correct", "desirable"}
)
"""Words that tell a worse answer and a better one."""
_NOT = frozenset({"not", "non", "un", "dis", "less", "no"})
"""Words that turn a better answer into a worse one, as in ``not_preferred``."""

_SIDES = frozenset({"a", "b", "c", "d", "0", "1", "2", "3", "4", "left", "right", "first", "second", "one", "two"})
"""Words that tell two answers to one question apart and say nothing of which is better."""

_MARKS = frozenset({"a", "b", "tie", "left", "right", "true", "false"} | {"model_a", "model_b"})
"""Values of a column that names the better of two answers, and is none itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A likely role for some columns; a person must agree: names tell more than nothing, and less than enough."""

    columns: Mapping[str, str]
    """Role to column."""
    reasons: Mapping[str, str]
    """Why each column is proposed for its role, in words."""
    caution: str = ""
    """What a person should know before agreeing, in one sentence; empty if nothing."""


def proposed_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a likely role for columns of a row: role to column; nothing where no column holds words."""
    return dict(proposal(row).columns)


def proposal(row: Mapping[str, Any]) -> Proposal:
    """Return likely roles for the columns of a row, and why; what looks like a worse answer is never one to learn."""
    chat = _chat(row)
    if chat:
        role, name = chat
        return Proposal(columns={role: name}, reasons={role: "it holds a list of turns"})
    names = [name for name, value in row.items() if isinstance(value, str) and not _is_mark(name, value)]
    worse = [name for name in names if is_worse(name)]
    better = [name for name in names if _is_better(name)]
    plain = [name for name in names if name not in {*worse, *better}]
    if worse:
        return _beside_worse(plain, better, worse)
    if twins := _twins(plain):
        rest = [name for name in plain if name not in twins]
        found = {"prompt": rest[0]} if len(rest) == 1 else _by_name(rest, ("prompt",))
        told = f"{' and '.join(twins[:2])} stand side by side, and no column says which is better."
        return Proposal(columns=found, reasons=_told(found), caution=told)
    return _answers(names)


def is_worse(name: str) -> bool:
    """Return whether the name of a column says that it holds a worse answer."""
    words = _split(name)
    return bool(words & _WORSE or (words & _BETTER and words & _NOT))


def _is_better(name: str) -> bool:
    words = _split(name)
    return bool(words & _BETTER) and not words & _NOT


def _beside_worse(plain: Sequence[str], better: Sequence[str], worse: Sequence[str]) -> Proposal:
    """Return a pair with the worse answer, if there is one that it can be compared with."""
    asked = _by_name(plain, ("completion", "prompt"))
    good = better[0] if better else asked.get("completion")
    left = [name for name in plain if name != good]
    prompt = asked.get("prompt") or (left[0] if len(left) == 1 else None)
    found = {"prompt": prompt} if prompt else {}
    if good:
        found |= {"chosen": good, "rejected": worse[0]}
    told = f"{' and '.join(worse[:2])} {'look' if len(worse) > 1 else 'looks'} like a worse answer"
    return Proposal(columns=found, reasons=_told(found), caution=f"{told}: never proposed as the one to learn.")


def _answers(names: Sequence[str]) -> Proposal:
    """Return prompt and completion by name, else in the order of the file; a single column is text."""
    if len(names) == 1:
        return Proposal(columns={"text": names[0]}, reasons={"text": "no other column holds words"})
    found = _by_name(names, ("completion", "prompt"))
    if better := next((name for name in names if _is_better(name) and name != found.get("prompt")), None):
        found["completion"] = better
    left = [name for name in names if name not in found.values()]
    for role in ("prompt", "completion"):
        if role not in found and left:
            found[role] = left.pop(0)
    found = {role: found[role] for role in ("prompt", "completion") if role in found}
    return Proposal(columns=found, reasons=_told(found))


def _told(found: Mapping[str, str]) -> dict[str, str]:
    """Return why each column is proposed: a word of its name, or its place in the file."""
    return {role: _why(role, name) for role, name in found.items()}


def _why(role: str, name: str) -> str:
    if role == "rejected":
        return "its name says that it is the worse answer"
    if role in {"chosen", "completion"} and _is_better(name):
        return "its name says that it is the better answer"
    if role == "chosen":
        return "it is the answer beside the worse one"
    word = next((word for word in _WORDS[role] if word in name.casefold()), None)
    return f"its name says {word}" if word else "the next column that holds words, as its name does not tell"


def _chat(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the column that holds a list of turns, with the role that its turns are written for."""
    for role, keys in (("messages", {"role", "content"}), ("conversations", {"from", "value"})):
        held = [name for name, value in row.items() if _are_turns(parsed(value), keys)]
        twins = _twins(held)  # two conversations side by side: one of them may be the worse
        if found := next((name for name in held if name not in twins and not is_worse(name)), None):
            return role, found
    return None


def _are_turns(value: Any, keys: set[str]) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and keys <= value[0].keys()


def _by_name(names: Iterable[str], roles: Sequence[str]) -> dict[str, str]:
    """Return the columns whose names have a role's word in them, each column once."""
    left, found = list(names), dict[str, str]()
    for role in roles:
        match = next((name for word in _WORDS[role] for name in left if word in name.casefold()), None)
        if match is not None:
            found[role] = match
            left.remove(match)
    return found


def _twins(names: Sequence[str]) -> tuple[str, ...]:
    """Return columns whose names differ in nothing but a side, such as ``response_a`` and ``response_b``."""
    stems: dict[frozenset[str], list[str]] = {}
    for name in names:
        words = _split(name)
        if words & _SIDES:
            stems.setdefault(words - _SIDES, []).append(name)
    return next((tuple(found) for stem, found in stems.items() if len(found) > 1 and stem), ())


def _split(name: str) -> frozenset[str]:
    """Return the words of a name: ``BadAnswer_2`` has bad, answer and 2."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return frozenset(re.findall(r"[^\W\d_]+|\d+", spaced.casefold()))


def _is_mark(name: str, value: str) -> bool:
    """Return whether a value is a number, or names one of two answers in a column such as ``winner``."""
    word = value.strip().casefold()
    return word.replace(".", "", 1).removeprefix("-").isdecimal() or (word in _MARKS and _is_better(name))
