"""What an evaluation found, as tables: what was measured, and row by row. Draws nothing."""

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from specs import gib
from ui.parts import text

_RATES = {"loss", "general"}
"""Losses; all else is a share of 1."""
_ALIKE = 0.5
"""Share of words in common from which what differs is marked."""


def measures(compared: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what was measured of both models, one list per column."""
    other = compared[0]["of"]
    return {
        "Measure": [text.plain(f"{one['label']}, {one['rows']:,} rows") for one in compared],
        text.plain(other[0].upper() + other[1:]): [_value(one, one["base"]) for one in compared],
        "Tuned model": [_value(one, one["tuned"]) for one in compared],
        "Change": [_change(one) for one in compared],
        "p": [f"{one['p']:.2g}" if one["p"] >= 0.001 else "< 0.001" for one in compared],
    }


def lost_by_quantizing(found: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the size and the perplexities of quantized models, one list per column."""
    columns: dict[str, list[str]] = {
        "Numbers": [text.plain(one["label"]) for one in found],
        "Size": [gib(one["after_bytes"]) for one in found],
    }
    for name, what in (("loss", "unlearned rows"), ("general", "general text")):
        read = [next((part for part in one["compared"] if part["name"] == name), None) for one in found]
        if any(read):
            columns[f"Perplexity, {what}"] = [_perplexities(part) for part in read]
    return columns


def _perplexities(part: Mapping[str, Any] | None) -> str:
    """Return both perplexities with their change, in one cell: more columns would not fit a phone."""
    if part is None:
        return "not read"
    read = "passages" if part["name"] == "general" else "rows"
    low, high = (100 * math.expm1(part[bound]) for bound in ("low", "high"))
    change = f"{low:+z.1f}% to {high:+z.1f}%"
    return f"{math.exp(part['base']):.4g} → {math.exp(part['tuned']):.4g} ({change}, {part['rows']:,} {read})"


def row_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return questions with the answers of both models as plain text, one list per column."""
    columns = {"Question": "question", "In the data": "answer", "Base model": "base", "Tuned model": "tuned"}
    return {label: [row[name] for row in rows] for label, name in columns.items()}


def marked(wanted: str, said: str) -> str:
    """Return an answer as Markdown, with the words in bold that the answer in the data has not in this order.

    One that has little in common with it is left unmarked: nearly all of it would be bold.
    """
    right, words = wanted.split(), said.split()
    found = SequenceMatcher(None, right, words, autojunk=False)
    if found.ratio() < _ALIKE:
        return text.paragraphs(said)
    parts = []
    for kind, _, _, first, last in found.get_opcodes():
        if first < last:
            some = text.plain(" ".join(words[first:last]))
            parts.append(some if kind == "equal" else f"**{some}**")
    return " ".join(parts)


def _value(one: Mapping[str, Any], value: float) -> str:
    return f"{value:.4f}" if one["name"] in _RATES else f"{value:.1%}"


def _change(one: Mapping[str, Any]) -> str:
    """Return the range in which the change lies; a share of 1 changes by points."""
    if one["low"] == one["high"] == 0:
        return "none"
    if one["name"] in _RATES:
        return f"{one['low']:+z.4f} to {one['high']:+z.4f}"
    return f"{100 * one['low']:+z.1f} to {100 * one['high']:+z.1f} points"
