"""Where every lesson starts: the plan that the person has at hand, or an example."""

import functools
from dataclasses import dataclass

import streamlit as st

from advisor import Situation, advise
from catalog import gpus, models
from estimator.tape.layers import with_layers
from specs import METHODS, FinetunePlan, ModelSpec
from ui.parts import carried, notices, prices, text

_EXAMPLE = ("meta-llama/Llama-3.1-8B", "GeForce RTX 3090")
"""A model and a card to show where none was chosen before."""


@dataclass(frozen=True, slots=True)
class Start:
    """A plan and what it is for."""

    situation: Situation
    plan: FinetunePlan
    is_own: bool

    @property
    def model(self) -> ModelSpec:
        """The model that is fine-tuned."""
        return self.situation.model

    @property
    def name(self) -> str:
        """The model's name without its owner."""
        return self.model.name.rpartition("/")[2]

    @property
    def whose(self) -> str:
        """What a label calls the plan."""
        return "yours" if self.is_own else "example"


def start() -> Start:
    """Return the plan that was looked at last, or an example."""
    planned = carried.planned()
    return Start(*planned, is_own=True) if planned else _example()


def tell(begun: Start) -> None:
    """Say in a line which plan the lesson starts from."""
    plan, situation = begun.plan, begun.situation
    rank = f", r {plan.r}" if METHODS[plan.method].has_rank else ""
    words = "Starts from your plan" if begun.is_own else "Starts from an example, until there is a plan of yours"
    of = f"{begun.model.name} with {METHODS[plan.method].label}{rank} on {situation.gpu.name}"
    st.caption(f":material/flag: {words}: {text.plain(of)}.")


def beside(choices: tuple[int, ...], own: int) -> tuple[int, ...]:
    """Return the values of a slider with the plan's own among them."""
    return tuple(sorted({*choices, own}))


@functools.cache
def _example() -> Start:
    model, card = _EXAMPLE
    situation = Situation(model=with_layers(models.find(model), notices.tell), gpu=gpus.find(card))
    found = advise(situation, price=lambda plan: prices.priced(situation.model, plan, situation.gpu))
    return Start(situation, found.plan, is_own=False)
