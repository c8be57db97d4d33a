"""The inputs of the page. Each is in the URL, so that a link restores the page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from advisor.situation import GOALS, TASKS
from specs import METHODS
from ui.parts import given, text
from ui.parts.examining import reader_for
from ui.plan import data_form, fields
from ui.plan.datasets import Choice

URL: Literal["query-params"] = "query-params"
"""Keeps a widget's value in the address of the page."""

RECOMMENDED = "Recommended"
_TASKS = {"As the data says": "", **{words.capitalize(): name for name, words in TASKS.items()}}
_GOALS = {words.capitalize(): name for name, words in GOALS.items()}
_RULES = {"Evidence": "evidence", "Textbook": "classic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs as typed; nothing is looked up yet, so that the form survives a mistake."""

    model: str
    device: str
    num_gpus: int
    data: Choice
    task: str
    """Empty leaves it to the data."""
    goal: str
    rules: str
    price_per_hour: float | None = None
    """The price of all devices together, in any currency."""
    pins: dict[str, Any]
    """Plan fields that the user overrides; fractional numbers as text."""


def inputs(models: list[str], devices: list[str], modules: Callable[[str], tuple[str, ...]]) -> Inputs:
    """Ask for everything that the advice depends on.

    Args:
        models: Names to choose from, the preselected one first.
        devices: Names to choose from, the preselected one first.
        modules: The linear modules of a model by its name.
    """
    chosen = model(models)
    name, count = device(devices)
    return Inputs(
        model=chosen,
        device=name,
        num_gpus=count,
        data=data_form.ask(lambda: reader_for(chosen)),
        **wishes(),
        price_per_hour=price(),
        pins=pins(modules(chosen)),
    )


def model(names: list[str]) -> str:
    """Ask for the model: one from the list, a folder or config.json on this machine, a Hub id or a size."""
    name = st.selectbox(
        "Model",
        names,
        key="model",
        bind=URL,
        accept_new_options=True,
        help="Pick one, or type the path of a model folder or config.json, a Hugging Face id, or a size such as 7B.",
    )
    return name or names[0]


def device(names: list[str]) -> tuple[str, int]:
    """Ask for the device and how many: this machine's own, a card from the catalog, or a number of GiB."""
    card, number = st.columns([3, 1.15])
    name = card.selectbox(
        "Device",
        names,
        key="gpu",
        bind=URL,
        accept_new_options=True,
        help="The device to plan for. Type a number of GiB, such as 24, for any card of that size.",
    )
    given.expect("num_gpus", "must be a whole number from 1 to 100,000")
    count = number.number_input(
        "Count", 1, 100_000, key="num_gpus", bind=URL, help="How many of these devices share the run."
    )
    return name or names[0], count


def wishes() -> dict[str, str]:
    """Ask for the task, the goal and the rule set."""
    for name, labels in (("task", _TASKS), ("goal", _GOALS), ("rules", _RULES)):
        given.one_of(name, list(labels))
    task = st.selectbox("Task", list(_TASKS), key="task", bind=URL, help="What the model should become good at.")
    left, right = st.columns(2)
    goal = left.selectbox("Goal", list(_GOALS), index=1, key="goal", bind=URL, help="What matters most to you.")
    rules = right.selectbox(
        "Rules",
        list(_RULES),
        key="rules",
        bind=URL,
        help="Evidence: from measurements and published recipes. Textbook: the classic table by model size.",
    )
    return {"task": _TASKS[task], "goal": _GOALS[goal], "rules": _RULES[rules]}


def price() -> float | None:
    """Ask what the devices cost, for users who rent them."""
    given.expect("price", "must be a number from 0 to 1,000,000")
    return st.number_input(
        "Price per hour",
        0.0,
        1e6,
        None,
        key="price",
        bind=URL,
        placeholder="if you rent the device",
        help="For all devices together, in any currency. The page then estimates the cost of the run.",
    )


def method() -> dict[str, str]:
    """Ask for the method; the first choice follows the recommendation."""
    labels = {RECOMMENDED: "", **{method.label: name for name, method in METHODS.items()}}
    given.one_of("method", list(labels))
    label = st.segmented_control(
        "Method",
        list(labels),
        default=RECOMMENDED,
        required=True,
        key="method",
        bind=URL,
        wrap=True,
        help=fields.MEANINGS["method"],
    )
    return {"method": labels[label]} if labels[label] else {}


def pins(linear_modules: tuple[str, ...]) -> dict[str, Any]:
    """Ask for plan fields to override; an empty one follows the recommendation.

    While the box is closed, only fields with a value are drawn: the browser lays out every drawn field again on each
    change of the page, but only a drawn field stays in the address.
    """
    chosen: dict[str, Any] = {}
    box = st.expander("Override settings", icon=":material/push_pin:", key="pins", on_change="rerun")
    with box:
        st.caption("Empty fields follow the recommendation.")
        for group, names in fields.GROUPS.items():
            shown = [name for name in names if box.open or _has_value(name)]
            if shown:
                st.markdown(f"**{group}**")
            columns = st.columns(2) if shown else []
            for index, name in enumerate(shown):
                with columns[index % 2]:
                    chosen[name] = _pin(name, linear_modules)
    return {name: value for name, value in chosen.items() if value is not None}


def _has_value(name: str) -> bool:
    """Return whether a field was set, on the page or in the address that opened it."""
    return bool(st.query_params.get(name) or st.session_state.get(name) not in (None, [], ""))


def _pin(name: str, linear_modules: tuple[str, ...]) -> Any:
    """Show one field and return its value, None if it is empty."""
    shown: dict[str, Any] = {"key": name, "bind": URL, "help": fields.MEANINGS[name], "placeholder": "recommended"}
    if name == "target_modules":
        return _target_modules(linear_modules)
    if options := fields.choices(name):
        given.one_of(name, [text.value(option) for option in options])
        return st.selectbox(name, options, index=None, format_func=text.value, **shown)
    if fields.is_whole(name):
        given.expect(name, "must be a whole number")
        return st.number_input(name, value=None, step=1, **shown)
    return st.text_input(name, value=None, **shown) or None


def _target_modules(linear_modules: tuple[str, ...]) -> Any:
    """Ask for target modules: from the model's own if they are known, otherwise by name."""
    name, meaning = "target_modules", fields.MEANINGS["target_modules"]
    if not linear_modules:
        typed = st.text_input(name, value=None, key=name, bind=URL, help=meaning, placeholder="q_proj, v_proj")
        return tuple(typed.replace(",", " ").split()) if typed else None
    options = ["all-linear", *linear_modules]
    given.expect(name, f"must be all-linear, or some of {', '.join(linear_modules)}")
    picked = st.pills(name, options, selection_mode="multi", key=name, bind=URL, help=meaning, wrap=True)
    return ("all-linear" if "all-linear" in picked else tuple(picked)) if picked else None
