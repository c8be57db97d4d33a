"""Plan: choose model, device and data, see at once whether it fits, edit the plan in place, and start the run."""

import streamlit as st

from advisor import ByRule
from advisor.tree import questions
from ui.parts import carried, given, links, notices
from ui.plan import forms, opening, pins, plan_card, plan_view, planning, reason, strip, unpriced_view
from ui.plan.forms import Inputs
from ui.plan.upgrades import upgrades


@notices.fragment
def plan_of(inputs: Inputs) -> None:
    """Show the plan; a setting that is changed redraws this part of the page alone."""
    with notices.waiting():
        draw(opening.edited(inputs))
    carried.keep()


def draw(inputs: Inputs) -> None:
    """Show the plan for what was chosen."""
    with pins.kept():
        asked = planning.request(inputs)
        result = planning.proposal(asked)
    given.granted("reasons")  # a switch of former addresses
    links.accept_old("view", {"Room": "Plan", "Trade-offs": "Plan"})
    carried.remember(asked.situation, result.plan)
    if isinstance(result, ByRule):
        unpriced_view.show(asked, result)
        return
    estimate = asked.price(result.plan)
    strip.show(asked, result, estimate)
    plan, methods, data, export = st.tabs(
        ["Plan", "Methods", "Data", "Export"], key="view", bind=forms.URL, on_change="rerun"
    )
    if plan.open:
        with plan:
            plan_card.chips(asked, result, upgrades(asked, result.plan) if result.fits else ())
            plan_view.cautions(asked, result, estimate)
            plan_card.show(asked, result)
    if methods.open:
        with methods:
            plan_view.alternatives(asked, result)
            plan_view.reasons(questions(asked.situation, result))
    if data.open:
        with data:
            plan_view.data(asked, result.plan)
    if export.open:
        with export:
            plan_view.export(asked, result)
    strip.devices_needed(asked, result, estimate)


st.caption(
    "LoRAFit recommends settings to fine-tune a language model on your own card, predicts the memory and the time that "
    "they take, and trains the model here."
)
strip.stay()
st.html(reason.STYLE)
chosen = opening.inputs()
if chosen is not None:
    opening.reading(chosen)
    plan_of(chosen)
carried.keep()
