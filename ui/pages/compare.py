"""Compare: any two choices against each other, one training step moment by moment, and where the bytes are."""

import streamlit as st

from ui import compareviews, forms, notices, planning, shows

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
    shows.verdict(asked, result, estimate)
    with right:
        names = ["Side by side", "Batch and length", "One step", "Where the bytes are", "Devices needed", "Method map"]
        table, heat, step, parts, devices, methods = st.tabs(names, key="show", bind=forms.URL, on_change="rerun")
    if table.open:
        with table:
            compareviews.pivot(asked, result.plan)
    if heat.open:
        with heat:
            compareviews.heat_map(asked, result.plan)
    if step.open:
        with step:
            compareviews.step(asked, result.plan, estimate)
    if parts.open:
        with parts:
            compareviews.parts(estimate)
    if devices.open:
        with devices:
            compareviews.devices_needed(asked, result.plan.method)
    if methods.open:
        with methods:
            compareviews.method_map()
