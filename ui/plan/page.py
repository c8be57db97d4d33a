"""Plan: choose model, device and data; see what is recommended, what it needs, and start it."""

import streamlit as st

from advisor.tree import questions
from ui.parts import notices
from ui.plan import data_view, forms, plan_view, planning, start
from ui.plan.upgrades import spendings

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
        names = ["Plan", "Methods", "Room", "Data", "Export"]
        plan, methods, room, data, export = st.tabs(names, key="view", bind=forms.URL, on_change="rerun")
    if plan.open:
        with plan:
            plan_view.insisted(planning.insisted(asked, result))
            plan_view.plan(result)
    if methods.open:
        with methods:
            plan_view.alternatives(asked, result)
            plan_view.tree(questions(asked.situation, result))
    if room.open:
        with room:
            plan_view.levers(result, estimate)
            if result.fits:
                plan_view.spendings(spendings(asked, result.plan))
    if data.open:
        with data:
            data_view.examination(asked.data, result.plan.max_length)
    if export.open:
        with export:
            plan_view.export(asked, result)
    start.way_out(asked, result, estimate)
