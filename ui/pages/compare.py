"""Compare: any two choices against each other, one training step moment by moment, and where the bytes are."""

import streamlit as st

from ui import compareviews, forms, notices, planning

left, right = st.columns([5, 9], gap="large")
with left:
    inputs = forms.inputs(planning.model_names(), planning.device_names(), planning.linear_modules)
with right, notices.errors(), notices.waiting():
    asked = planning.request(inputs, forms.method())
    plan = planning.recommendation(asked).plan
    estimate = asked.price(plan)
    names = ["Side by side", "One training step", "Where the bytes are", "Method map"]
    table, step, parts, methods = st.tabs(names, key="show", bind=forms.URL, on_change="rerun")
    if table.open:
        with table:
            compareviews.pivot(asked, plan)
    if step.open:
        with step:
            compareviews.step(estimate)
    if parts.open:
        with parts:
            compareviews.parts(estimate)
    if methods.open:
        with methods:
            compareviews.method_map()
