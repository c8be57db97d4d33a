"""Accuracy: predicted against measured memory, for published runs and for this machine's own."""

import streamlit as st

from ui import accuracyviews, notices, proof, running

st.title("How good are the predictions?")
with notices.errors():
    published, own, method = st.tabs(["Published runs", "Runs of this machine", "How the estimate is made"])
    with published:
        numbers = accuracyviews.traced(proof.cold(), range(len(proof.published())))
        accuracyviews.published([proof.comparison(number) for number in numbers])
    with own:
        accuracyviews.own(proof.own(running.store().runs()))
    with method:
        accuracyviews.method()
