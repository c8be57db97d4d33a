"""What the address of a page asks for and the page does not use: each value is named with the reason.

Streamlit gives a widget its value from the address; one that it cannot take is dropped without a word, and the widget
stands at its default. So the address is read before anything is drawn (``take``) and compared with what the widgets
took (``refusals``); a run cannot start before whoever came with the address changed or accepted what is shown.
"""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from specs import FinetunePlan, PlanError
from ui.parts import text

_STATE = "asked of the address"
_NOT_DRAWN = "not drawn"
_MOST_LINES = 8
_LONGEST_RULE = 160
"""Characters of a rule that leave room for the value in one sentence."""
_NAMES = frozenset({"model", "gpu", "data", "prompts"})
"""Parameters that are texts, whatever they look like."""
_INPUTS = frozenset({*_NAMES, "num_gpus", "split", "evaluate", "thinking", "task", "goal", "rules"})
PLAN = _INPUTS | {entry.name for entry in fields(FinetunePlan)}
"""Parameters that change what a run would do."""
_VIEWS = frozenset(
    [
        "view",
        "reasons",
        "format",
        "nodes",
        "price",
        "show",
        "groups",
        "rows",
        "columns",
        "devices_method",
        "on",
        "proof",
        "trace",
        "run",
        "range",
        "smoothing",
        "log",
        "quantity",
        "token",
        "again",
        "lesson",
        "ckpt_layers",
        "ckpt_weight",
        "targets",
        "targets_r",
        "matrix",
        "block",
        "scheme",
        "optim_model",
        "optim_adapter",
        "lora_matrix",
        "lora_r",
        "lora_a",
        "number",
    ]
)
"""Parameters that change what a page shows."""
KNOWN = PLAN | _VIEWS
"""Every parameter of every page, besides those named after an axis."""
_FAMILIES = ("groups_", "rows_", "columns_")
"""Beginnings of parameters that are named after an axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One value of the address that is not used."""

    name: str
    given: str
    sentence: str
    shown: Any
    """What the widget shows instead; once it shows something else, the refusal is settled."""


@dataclass(slots=True)
class _Address:
    pending: dict[str, list[str]]
    """What the address asked for and no widget took up yet."""
    refusals: list[Refusal] = field(default_factory=list)
    rules: dict[str, tuple[str, Mapping[Any, str]]] = field(default_factory=dict)
    told: set[tuple[str, str]] = field(default_factory=set)
    """Names and values that were refused, so that nobody accepts one twice."""


def take() -> None:
    """Read the address when a page is opened from it; call this before anything is drawn."""
    context = get_script_run_ctx()
    if _STATE not in st.session_state or (context is not None and context.is_history_navigation):
        st.session_state[_STATE] = _Address({name: st.query_params.get_all(name) for name in st.query_params})
        _drop_infinite(_address())


def expect(name: str, rule: str, labels: Mapping[Any, str] | None = None) -> None:
    """Say what a parameter may be, for the sentence about one that is not, and how its values are written."""
    _address().rules[name] = rule if len(rule) <= _LONGEST_RULE else f"{rule[: _LONGEST_RULE - 1]}…", labels or {}


def one_of(name: str, labels: Sequence[str]) -> None:
    """Say that a parameter is one of these words."""
    expect(name, f"must be one of {', '.join(labels)}")


def refuse(name: str, given: str, rule: str) -> None:
    """Record that a page does not use a value; the same one only once."""
    address = _address()
    address.pending.pop(name, None)
    if (name, given) not in address.told:
        address.told.add((name, given))
        sentence = str(PlanError(name, rule, given, "It is not used"))
        address.refusals.append(Refusal(name=name, given=given, sentence=sentence, shown=_NOT_DRAWN))


def granted(name: str) -> None:
    """Record that a page understood a value that no widget knows, such as the former name of a tab."""
    _address().pending.pop(name, None)


def drop(name: str) -> None:
    """Take a parameter out of the address before a widget takes it up."""
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as parameters:
        parameters.remove_param(name)
        parameters.set_initial_query_params_from_current()


def put(address: Mapping[str, str | list[str]]) -> None:
    """Put parameters into the address before any widget is drawn, as if the page were opened with them."""
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as parameters:
        for name, value in address.items():
            kind = "string_array_value" if isinstance(value, list) else "string_value"
            parameters.set_corrected_value(name, value, kind)
        parameters.set_initial_query_params_from_current()


def refusals() -> list[Refusal]:
    """Return the values of the address that are not used, as far as widgets are drawn and nobody changed them since."""
    address = _address()
    for name, given in list(address.pending.items()):
        if not _is_known(name):
            close = difflib.get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.5)
            refuse(name, given[-1], f"is not a setting{f' (nearest: {close[0]})' if close else ''}")
        elif name in st.session_state:
            value, (rule, labels) = st.session_state[name], address.rules.get(name, (_ANY_RULE, {}))
            address.pending.pop(name)
            if not _is_used(name, given, value, labels):
                refuse(name, ", ".join(given), rule)
    seen = [_seen(one) for one in address.refusals]
    address.refusals = [one for one in seen if one.shown in (_NOT_DRAWN, st.session_state.get(one.name))]
    return address.refusals


def obstacle(used: Collection[str] = ()) -> str | None:
    """Return why no run may start before somebody looked, or None; call this once all other inputs of a plan are drawn.

    Args:
        used: Parameters that are used already, although their widgets are drawn later.
    """
    for name, texts in list(_address().pending.items()):
        if name in PLAN and name not in st.session_state and name not in used:
            refuse(name, ", ".join(texts), "does not apply to what is chosen here")
    if any(one.name in PLAN or not _is_known(one.name) for one in refusals()):
        return "Some values in the address of this page are not used. Change them, or accept what is shown."
    return None


def tell() -> None:
    """Show what of the address is not used, and the button to go on without it; call this after the page is drawn."""
    found = refusals()
    if not found:
        return
    lines = [text.plain(one.sentence) for one in found[:_MOST_LINES]]
    if more := len(found) - len(lines):
        lines.append(f"and {more:,} more")
    st.warning(
        "\n- ".join(("**Some values in the address of this page are not used**\n", *lines)), icon=":material/link_off:"
    )
    st.button("Use what is shown", key="accept the address", icon=":material/check:", on_click=_accept)


_ANY_RULE = "must be a value that this setting takes"


def _seen(refusal: Refusal) -> Refusal:
    """Return a refusal with what its widget shows, as soon as that is drawn."""
    if refusal.shown != _NOT_DRAWN or refusal.name not in st.session_state:
        return refusal
    return replace(refusal, shown=st.session_state[refusal.name])


def _accept() -> None:
    for one in _address().refusals:
        if not _is_known(one.name) and one.name in st.query_params:
            del st.query_params[one.name]
    _address().refusals.clear()


def _address() -> _Address:
    found: _Address = st.session_state.setdefault(_STATE, _Address({}))
    return found


def _is_known(name: str) -> bool:
    return name in KNOWN or name.startswith(_FAMILIES)


def _is_used(name: str, given: list[str], value: Any, labels: Mapping[Any, str]) -> bool:
    """Return whether a widget took what the address gave; a default no longer stands in the address."""
    if st.query_params.get_all(name) == given:
        return True
    values = list(value) if isinstance(value, list | tuple) else [value]
    return len(values) == len(given) and all(map(_are_equal, given, values, [labels] * len(values)))


def _are_equal(given: str, value: Any, labels: Mapping[Any, str]) -> bool:
    if isinstance(value, bool) and value not in labels:
        return given.lower() == str(value).lower()
    if isinstance(value, int | float) and value not in labels:
        return _number(given) == value
    return given == labels.get(value, "" if value is None else str(value))


def _number(given: str) -> float | None:
    try:
        return float(given)
    except ValueError:
        return None


def _drop_infinite(address: _Address) -> None:
    """Take infinite numbers out of the address: an input of whole numbers would end the page with an error."""
    wrong = [name for name, given in address.pending.items() if name not in _NAMES and any(map(_is_infinite, given))]
    for name in wrong:
        drop(name)
        refuse(name, ", ".join(address.pending[name]), "must be a finite number")


def _is_infinite(given: str) -> bool:
    number = _number(given)
    return number is not None and math.isinf(number)
