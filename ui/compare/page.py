"""Compare: a plan against others by model, method and device, one training step moment by moment, and its bytes."""

from collections.abc import Callable

import streamlit as st

from ui.compare import compare_view, cost_view, side_by_side
from ui.parts import carried, notices
from ui.plan import forms, opening, pins, plan_view, planning
from ui.plan.forms import Inputs


def draw(inputs: Inputs) -> None:
    """Show the comparisons with the plan for what was chosen."""
    with pins.kept():
        asked = planning.request(inputs)
        result = planning.recommendation(asked)
        estimate = asked.price(result.plan)
    carried.remember(asked.situation, result.plan)
    plan_view.verdict(asked, result, estimate)
    pins.override(asked.situation.modules)
    about = plan_view.about(asked, result.plan, estimate)
    views: dict[str, Callable[[], None]] = {
        "Side by side": lambda: side_by_side.show(asked, result.plan),
        "Batch and length": lambda: compare_view.heat_map(asked, result.plan, about),
        "One step": lambda: compare_view.step(asked, result.plan, estimate, about),
        "Where the bytes are": lambda: compare_view.parts(estimate, about),
        "Time and cost": lambda: cost_view.show(asked, result.plan),
        "Devices needed": lambda: compare_view.devices_needed(asked, result.plan.method),
        "Method map": lambda: compare_view.method_map(asked),
    }
    tabs = st.tabs(list(views), key="show", bind=forms.URL, on_change="rerun")
    for tab, show in zip(tabs, views.values(), strict=True):
        if tab.open:
            with tab:
                show()


head = st.container()
with st.expander("Change model, device or data", key="change", icon=":material/tune:"):
    chosen = opening.inputs()
if chosen is None:
    head.caption("Several cards are called that. Say below which one is meant.")
else:
    head.markdown(opening.in_words(chosen))
    with notices.errors(), notices.waiting():
        draw(chosen)
carried.keep()
