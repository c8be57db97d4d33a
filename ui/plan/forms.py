"""The inputs of the page. Each is in the URL, so that a link restores the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from advisor.situation import GOALS, TASKS
from ui.parts import given
from ui.parts.examining import reader_for
from ui.plan import pins
from ui.plan.data import data_form
from ui.plan.data.datasets import Choice

URL: Literal["query-params"] = "query-params"
"""Keeps a widget's value in the address of the page."""

_TASKS = {"As the data says": "", **{words.capitalize(): name for name, words in TASKS.items()}}
_GOALS = {words.capitalize(): name for name, words in GOALS.items()}
USUAL_GOAL = list(GOALS)[1]
"""The goal of who says none."""
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
    """Plan fields that the user overrides; numbers as text."""


def inputs(models: list[str], devices: list[str], modules: Callable[[str], tuple[str, ...]]) -> Inputs:
    """Ask for everything that the advice depends on: model, device and data large, all else behind "More options".

    Args:
        models: Names to choose from, the preselected one first.
        devices: Names to choose from, the preselected one first.
        modules: The linear modules of a model by its name.
    """
    columns = st.columns(3, gap="medium")
    with columns[0]:
        chosen = model(models)
    with columns[1]:
        name, count = device(devices)
    more = st.expander("More options: task, goal, rules, price, questions", key="more")
    with columns[2]:
        data = data_form.ask(lambda: reader_for(chosen), more)
    with more:
        wished, paid = wishes(), price()
    return Inputs(
        model=chosen,
        device=name,
        num_gpus=count,
        data=data,
        **wished,
        price_per_hour=paid,
        pins=pins.chosen(modules(chosen)),
    )


def model(names: list[str]) -> str:
    """Ask for the model: one from the list, a folder or config.json on this machine, a Hub id or a size."""
    name = st.selectbox(
        "Model",
        names,
        key="model",
        bind=URL,
        accept_new_options=True,
    )
    st.caption("Pick one, or type a folder, the path of a config.json, a Hugging Face id, or a size such as 7B.")
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
    )
    given.expect("num_gpus", "must be a whole number from 1 to 100,000")
    count = number.number_input("Count", 1, 100_000, key="num_gpus", bind=URL)
    st.caption("Pick one, or type part of its name such as 4090, or a size such as 24 GB.")
    return name or names[0], count


def choose_device(names: Sequence[str]) -> None:
    """Ask which card a typed name means."""
    st.markdown("Several cards are called that. Which one is yours?")
    with st.container(horizontal=True, key="cards_meant", gap="small"):
        for name in names:
            st.button(name, key=f"take {name}", on_click=_take_device, args=(name,))


def _take_device(name: str) -> None:
    st.session_state["gpu"] = name


def wishes() -> dict[str, str]:
    """Ask for the task, the goal and the rule set."""
    for name, labels in (("task", _TASKS), ("goal", _GOALS), ("rules", _RULES)):
        given.one_of(name, list(labels))
    left, middle, right = st.columns(3)
    task = left.selectbox("Task", list(_TASKS), key="task", bind=URL)
    usual = list(_GOALS.values()).index(USUAL_GOAL)
    goal = middle.selectbox("Goal", list(_GOALS), index=usual, key="goal", bind=URL)
    rules = right.selectbox(
        "Rules",
        list(_RULES),
        key="rules",
        bind=URL,
    )
    right.caption("Evidence: measurements and published recipes. Textbook: the classic table by model size.")
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
        placeholder="of all devices together, in any currency, if you rent them",
    )
