"""What a tape's file must hold to be a tape: the right types, and only numbers of sizes and blocks that it has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

_SOURCES = re.compile(r"[+|=]|start|turn|head|[FB](?:[+-]?\d{1,6}|~)")
_FACTS: Mapping[str, type] = {"warnings": list, "unquantized_params": int, "conditions": dict, "versions": dict}


class WrongTapeError(ValueError):
    """Values that are no tape."""


def require_tape(
    values: Mapping[str, Any], *, columns: int, components: tuple[str, ...], num_kinds: int, resident: type
) -> None:
    """Refuse values that are no tape.

    Args:
        values: What a tape's JSON text holds.
        columns: Number of coefficients of one size.
        components: What a resident tensor may be for.
        num_kinds: How many things an allocation may be for.
        resident: The class of a resident tensor, whose fields each entry has.

    Raises:
        WrongTapeError: If anything has another type, or names what the tape does not have.
        KeyError: If a part is missing.
        TypeError: If a part that should hold others does not.
    """
    pairs = [number for row in values["sizes"] for pair in row for number in pair]
    _require(_are_below(columns, pairs[::2]) and _are_whole(pairs))
    blocks, layers = values["blocks"], values["layers"]
    _require(_are_whole(layers) and {"start", "head"} <= blocks.keys())
    _require(bool(layers) and all(f"{direction}{layer}" in blocks for layer in set(layers) for direction in "FB"))
    for name in blocks:
        _require_block(name, blocks, len(values["sizes"]), num_kinds)
    for entry in values["residents"]:
        _require_resident(entry, components, {field.name for field in fields(resident)})
    facts = values["facts"]
    repeats = [number for pair in values.get("repeats", ()) for number in pair]
    _require(_are_below(len(values["sizes"]), repeats[::2]) and _are_below(2**31, repeats[1::2]))
    _require(not repeats or _are_below(2**31, [facts["chunk"]]))
    _require(_are_below(2**63, [values["num_params"], values["format"]]))
    _require(all(type(facts.get(name, kind())) is kind for name, kind in _FACTS.items()))


def _require_block(name: str, blocks: Mapping[str, Any], num_sizes: int, num_kinds: int) -> None:
    allocations, (sources, events), handed_over = blocks[name]
    _require(_are_below(num_sizes, allocations[::2]) and _are_below(num_kinds, allocations[1::2]))
    _require(all(isinstance(source, str) and _SOURCES.fullmatch(source) for source in sources))
    _require(_are_below(len(sources), events[::2]) and _are_below(2**31, events[1::2]))
    made = 0
    for number, index in zip(events[::2], events[1::2], strict=True):
        source = sources[number]
        made += source == "+"
        owner = _owner(name, source)
        _require(owner is None or 2 * index < len(blocks[owner][0]))
    _require(2 * made == len(allocations))
    _require(all(_are_below(made, given) for given in handed_over.values()))


def _owner(name: str, source: str) -> str | None:
    """Return the block whose allocation an event frees; None if it frees none, or what a neighbour hands over."""
    if source == "=":
        return name
    outside = {"start", "turn", "head"}
    if source in outside or (source not in {"+", "|"} and name in outside):
        return source
    return None


def _require_resident(entry: Mapping[str, Any], components: tuple[str, ...], names: set[str]) -> None:
    _require(entry.keys() == names and entry["component"] in components)
    _require(type(entry["trainable"]) is bool and type(entry["is_parameter"]) is bool)
    numbers = [entry[name] for name in ("num_elements", "num_elements_per_rank", "itemsize", "count")]
    _require(_are_below(2**63, numbers) and (entry["layer"] is None or _are_below(2**31, [entry["layer"]])))


def _are_whole(numbers: Sequence[Any], least: int = 1 - 2**63, limit: int = 2**63) -> bool:
    # A bool is an int to Python, and numpy would take text and fractions.
    return set(map(type, numbers)) <= {int} and (not numbers or (min(numbers) >= least and max(numbers) < limit))


def _are_below(limit: int, numbers: Sequence[Any]) -> bool:
    return _are_whole(numbers, 0, limit)


def _require(is_right: bool) -> None:  # noqa: FBT001 - reads as a sentence
    if not is_right:
        raise WrongTapeError
