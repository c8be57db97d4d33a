"""The plan of a model that cannot be estimated: what needs no memory works, the rest says why it does not."""

import streamlit as st

from advisor import ByRule
from ui.parts import exhibits, text
from ui.plan import fields, forms, pins, plan_view, strip
from ui.plan.planning import Request


def show(asked: Request, result: ByRule) -> None:
    """Show the page for a plan by rule."""
    strip.unpriced(asked, result)
    names = ["Plan", "Methods", "Data", "Export"]
    plan, methods, data, export = st.tabs(names, key="view", bind=forms.URL, on_change="rerun")
    with plan:
        plan_view.warned([str(caution) for caution in result.warnings])
        pins.override(asked.situation.modules)
        settings(result)
    with methods:
        st.caption("Methods are compared by their memory, which is unknown here. Any of them can be set under Plan.")
    if data.open:
        with data:
            plan_view.data(asked, result.plan)
    if export.open:
        with export:
            plan_view.export(asked, result)


def settings(result: ByRule) -> None:
    """Show every setting of the plan with its reason."""
    advice = {entry.field: entry for entry in result.advice}
    shown = [name for name in ("method", *fields.ALL) if name in advice]
    exhibits.table(
        {
            "Setting": [f"`{name}`" for name in shown],
            "Value": [
                text.with_range(text.plain(text.value(getattr(result.plan, name))), advice[name]) for name in shown
            ],
            "Reason and source": [text.reasoning(advice[name]) for name in shown],
        },
        name="plan",
        alt="The plan by rule, one setting a row",
    )
