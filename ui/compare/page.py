"""Compare: any two settings against each other, one training step moment by moment, and where the bytes are."""

import streamlit as st

from ui.compare import compare_view
from ui.parts import notices
from ui.plan import forms, plan_view, planning

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
    plan_view.verdict(asked, result, estimate)
    with right:
        names = ["Side by side", "Batch and length", "One step", "Where the bytes are", "Devices needed", "Method map"]
        table, heat, step, parts, devices, methods = st.tabs(names, key="show", bind=forms.URL, on_change="rerun")
    if table.open:
        with table:
            compare_view.pivot(asked, result.plan)
    if heat.open:
        with heat:
            compare_view.heat_map(asked, result.plan)
    if step.open:
        with step:
            compare_view.step(asked, result.plan, estimate)
    if parts.open:
        with parts:
            compare_view.parts(estimate)
    if devices.open:
        with devices:
            compare_view.devices_needed(asked, result.plan.method)
    if methods.open:
        with methods:
            compare_view.method_map()
