"""Accuracy: predicted against measured memory and time, for published runs and for runs on this machine."""

import streamlit as st

from ui.accuracy import accuracy_view, predictions, timing
from ui.parts import links, notices
from ui.runs.facts import run_data

st.title("How accurate are the predictions?")
with notices.errors():
    links.accept_old("proof", {"Runs of this machine": "Runs on this machine"})
    names = ["Published runs", "Runs on this machine", "Time", "How the estimate is made"]
    published, own, time, method = st.tabs(names, key="proof", bind="query-params", on_change="rerun")
    if published.open:
        with published:
            numbers = accuracy_view.traced(predictions.cold(), range(len(predictions.published())))
            accuracy_view.published([predictions.comparison(number) for number in numbers])
    if own.open:
        with own:
            accuracy_view.own(predictions.own(run_data.store().runs()))
    if time.open:
        with time:
            timing.show(run_data.store().runs())
    if method.open:
        with method:
            accuracy_view.method()
