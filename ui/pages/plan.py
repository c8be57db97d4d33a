"""Plan: choose model, device and data; see what is recommended, what it needs, and start it."""

import streamlit as st

from advisor.tree import questions
from ui import dataviews, forms, notices, planning, shows, starting
from ui.spending import spendings

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
    starting.headline(asked, result, estimate)
    with right:
        shows.memory(estimate)
        shows.cautions(result, estimate)
        names = ["Plan", "Methods", "Room", "Data", "Export"]
        plan, methods, room, data, export = st.tabs(names, key="view", bind=forms.URL, on_change="rerun")
    if plan.open:
        with plan:
            shows.insisted(planning.insisted(asked, result))
            shows.plan(result)
    if methods.open:
        with methods:
            shows.alternatives(asked, result)
            shows.tree(questions(asked.situation, result))
    if room.open:
        with room:
            shows.levers(result, estimate)
            if result.fits:
                shows.spendings(spendings(asked, result.plan))
    if data.open:
        with data:
            dataviews.examination(asked.data, result.plan.max_length)
    if export.open:
        with export:
            shows.export(asked, result)
    starting.way_out(asked, result, estimate)
