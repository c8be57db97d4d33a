"""Combinations of adapters: offers one of several runs, and says of one what it was made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from trainer.results.tasks import COMBINATION_TYPES
from trainer.runs.contract import Run
from ui.parts import notices, text
from ui.runs import address, after_view
from ui.runs.facts import run_data, titles


def about(run: Run) -> None:
    """Say which adapters a combination is made of, and offer it as a file."""
    kept = {one.id: one for one in run_data.known(part["id"] for part in run.parts)}
    st.markdown(" + ".join(f"{part['weight']:g} x {_named(part, kept)}" for part in run.parts))
    kind = run.details["combined"]["type"]
    st.caption(text.plain(f"combination_type {kind}: {COMBINATION_TYPES[kind]}. Evaluated on the data of the first."))
    with st.container(horizontal=True):
        after_view.adapter_button(run)


def _named(part: Mapping[str, Any], kept: Mapping[str, Run]) -> str:
    """Return what one of the runs of a combination is called, with a link as long as it is kept."""
    if part["id"] in kept:
        return address.link(text.plain(titles.title(kept[part["id"]])), [part["id"]])
    return f"{text.plain(part['name'] or part['id'])} (deleted)"


def offer(runs: Sequence[Run]) -> None:
    """Offer the weighted sum of the runs' adapters as a run of its own, and open it."""
    with st.form("combination", border=False):
        cells = st.columns(len(runs) + 1, vertical_alignment="bottom")
        share = 1 / len(runs)
        weights = [
            cell.number_input(f"Weight of {run.id}", -10.0, 10.0, share, 0.05, key=f"weight_{run.id}")
            for cell, run in zip(cells, runs, strict=False)
        ]
        kind = cells[-1].selectbox(
            "combination_type", list(COMBINATION_TYPES), format_func=lambda name: f"{name}: {COMBINATION_TYPES[name]}"
        )
        asked = st.form_submit_button("Combine", icon=":material/join_inner:")
    if asked:
        with notices.errors(), st.spinner("Combining the adapters ..."):
            made = run_data.combined([run.id for run in runs], weights, kind)
            address.show([made.id])
            st.rerun()
