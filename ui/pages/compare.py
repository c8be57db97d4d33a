"""Compare: any two choices against each other, one training step moment by moment, and where the bytes are."""

import streamlit as st

from ui import compareviews, forms, notices, planning

left, right = st.columns([5, 9], gap="large")
with left:
    inputs = forms.inputs(planning.model_names(), planning.device_names(), planning.linear_modules)
with right, notices.errors():
    asked = planning.request(inputs, forms.method())
    with notices.waiting(planning.is_warm(asked)):
        plan = planning.recommendation(asked).plan
        estimate = asked.price(plan)
    table, step, parts = st.tabs(
        ["Side by side", "One training step", "Where the bytes are"], key="show", bind=forms.URL
    )
    with table:
        compareviews.pivot(asked, plan)
    with step:
        compareviews.step(estimate)
    with parts:
        compareviews.parts(estimate)
