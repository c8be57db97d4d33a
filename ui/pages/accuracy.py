"""Accuracy: predicted against measured memory, for published runs and for this machine's own."""

import streamlit as st

from ui import accuracyviews, notices, proof, running

st.title("How good are the predictions?")
with notices.errors():
    names = ["Published runs", "Runs of this machine", "How the estimate is made"]
    published, own, method = st.tabs(names, key="proof", bind="query-params", on_change="rerun")
    if published.open:
        with published:
            numbers = accuracyviews.traced(proof.cold(), range(len(proof.published())))
            accuracyviews.published([proof.comparison(number) for number in numbers])
    if own.open:
        with own:
            accuracyviews.own(proof.own(running.store().runs()))
    if method.open:
        with method:
            accuracyviews.method()
