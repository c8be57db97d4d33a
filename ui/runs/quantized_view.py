"""Rounds a run's model to fewer bits, and shows what that costs."""

import streamlit as st

from specs import gib
from trainer.results.quantizing import WAYS
from trainer.runs.contract import Run
from ui.parts import exhibits, notices, text
from ui.runs.facts import run_data
from ui.runs.facts.evaluated import lost_by_quantizing


def quantized(run: Run) -> None:
    """Offer to round the model, and show those that are kept."""
    st.markdown("**Quantize**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        way = st.selectbox("To", [*WAYS], format_func=lambda name: WAYS[name].label, key="quantize to", width=180)
        lacks = WAYS[way].lacks
        asked = st.button(
            "Quantize", icon=":material/compress:", key="quantize", disabled=bool(lacks), help=lacks and f"`{lacks}`"
        )
    needs = f" Needs {WAYS[way].package}, which is not installed." if lacks else ""
    st.caption(
        text.plain(
            f"{WAYS[way].about}. The merged model is rounded without further training, and both read the rows that "
            f"were not learned and the general text. It takes minutes.{needs}"
        )
    )
    if asked:
        with notices.errors(), st.spinner("Merging, rounding and measuring ..."):
            run_data.quantize(run, way)
    _kept(run)


def _kept(run: Run) -> None:
    found = run_data.quantized(run)
    if not found:
        return
    first = next(iter(found.values()))
    exhibits.table(
        lost_by_quantizing([*found.values()]),
        name="quantized",
        alt="Size and perplexity of the model in 16 bit and of each quantized one",
        about={"Run": run.id, "Step": str(first["step"])},
    )
    st.caption(
        f"In 16 bit the model takes {gib(first['before_bytes'])}. In brackets: by how much perplexity is higher than "
        "in 16 bit, as a range that holds the true change with 95% confidence. Ask a quantized model in the tab *Chat*."
    )
    for way in found:
        st.caption(text.plain(f"{WAYS[way].label}: {run_data.quantized_folder(run, way)}"))
