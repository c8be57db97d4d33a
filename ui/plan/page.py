"""Plan: choose model, device and data, see the recommendation and what it needs, and start the run."""

import streamlit as st

from advisor.tree import questions
from ui.parts import links, notices
from ui.plan import data_view, forms, plan_view, planning, start
from ui.plan.upgrades import upgrades

head = st.container()
left, right = st.columns([5, 9], gap="large")
with left:
    inputs = forms.inputs(planning.model_names(), planning.device_names(), planning.linear_modules)
with right:
    method = forms.method()
with head, notices.errors(), notices.waiting():
    asked = planning.request(inputs, method)
    result = planning.recommendation(asked)
    estimate = asked.price(result.plan)
    start.headline(asked, result, estimate)
    with right:
        plan_view.memory(estimate)
        plan_view.cautions(result, estimate)
        links.accept_old("view", {"Room": "Trade-offs"})
        names = ["Plan", "Methods", "Trade-offs", "Data", "Export"]
        plan, methods, trade_offs, data, export = st.tabs(names, key="view", bind=forms.URL, on_change="rerun")
    if plan.open:
        with plan:
            plan_view.overrides(planning.overrides(asked, result))
            plan_view.plan(result)
    if methods.open:
        with methods:
            plan_view.alternatives(asked, result)
            plan_view.tree(questions(asked.situation, result))
    if trade_offs.open:
        with trade_offs:
            plan_view.levers(result, estimate)
            if result.fits:
                plan_view.upgrades(upgrades(asked, result.plan))
    if data.open:
        with data:
            model = asked.situation.model
            data_view.examination(asked.data, result.plan, model.name, model.vocab_size)
    if export.open:
        with export:
            plan_view.export(asked, result)
    start.devices_needed(asked, result, estimate)
