"""Proposes which column of a data set plays which role, where its layout is not recognised by itself."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_WORDS: Mapping[str, tuple[str, ...]] = {
    "chosen": ("chosen", "preferred", "better", "accepted", "winner", "positive"),
    "rejected": ("rejected", "dispreferred", "worse", "loser", "negative"),
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
    ),
}
"""Words in the names of columns for each role, the roles with the clearer words first."""


def proposed_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a likely role for columns of a row: role to column; nothing where no column holds words.

    A person must agree: names tell more than nothing, and less than enough.
    """
    chat = _chat(row)
    if chat:
        return chat
    words = [name for name, value in row.items() if isinstance(value, str) and not _is_number(value)]
    found = _by_name(words)
    if {"prompt", "chosen", "rejected"} <= found.keys():
        return {role: found[role] for role in ("prompt", "chosen", "rejected")}
    return _by_order(words, {role: found[role] for role in ("prompt", "completion") if role in found})


def _chat(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the column that holds a list of turns, under the role that its turns are written for."""
    for role, keys in (("messages", {"role", "content"}), ("conversations", {"from", "value"})):
        for name, value in row.items():
            if isinstance(value, list) and value and isinstance(value[0], dict) and keys <= value[0].keys():
                return {role: name}
    return {}


def _by_name(names: Iterable[str]) -> dict[str, str]:
    """Return the columns whose names have a role's word in them, each column once."""
    left, found = list(names), dict[str, str]()
    for role, words in _WORDS.items():
        match = next((name for word in words for name in left if word in name.casefold()), None)
        if match is not None:
            found[role] = match
            left.remove(match)
    return found


def _by_order(names: Sequence[str], found: dict[str, str]) -> dict[str, str]:
    """Return prompt and completion, where their names do not tell in the order of the file; a single column is text."""
    if len(names) == 1:
        return {"text": names[0]}
    left = [name for name in names if name not in found.values()]
    for role in ("prompt", "completion"):
        if role not in found and left:
            found[role] = left.pop(0)
    return {role: found[role] for role in ("prompt", "completion") if role in found}


def _is_number(value: str) -> bool:
    return value.strip().replace(".", "", 1).isdecimal()
