"""What can be done after a run on the page: take it away, train on, mend it, merge it, share it."""

from collections.abc import Sequence

import streamlit as st

from specs import METHODS, FinetunePlan
from trainer.runs.contract import Metric, Run
from ui.parts import notices, text
from ui.runs import address, remedies, run_data


def next_steps(run: Run) -> None:
    """Offer the files of a run, and more steps."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if run_data.has_adapter(run):
            st.download_button(
                "Adapter (zip)",
                lambda: run_data.adapter_file(run),
                f"{run.id}.zip",
                "application/zip",
                icon=":material/download:",
                on_click="ignore",
                help="Adapter, plan, metrics and model card.",
            )
        file = run_data.metrics_file(run)
        st.download_button("Metrics (CSV)", file, f"{run.id}.csv", icon=":material/download:", on_click="ignore")
        steps = st.number_input("More steps", 1, 1_000_000, 50, key="more", width=150)
        st.button("Train on", icon=":material/forward:", key="extend", on_click=_extend, args=(run.id, steps))
    mend(run, run_data.metrics(run))


def mend(run: Run, points: Sequence[Metric]) -> None:
    """Offer the same run with what its failure or its curves ask for, one change a button."""
    with st.spinner("Working out what would help ..."):
        ways = remedies.ways_on(run, points)
    if not ways:
        return
    st.markdown("**What would help**")
    if run.error_kind == remedies.OUT_OF_MEMORY:
        st.caption(text.plain(f"Memory: {remedies.shortage(run)}."))
    for way in ways:
        words, button = st.columns([4, 1], vertical_alignment="center")
        words.markdown(text.plain(way.words))
        button.button(
            "Apply and retry",
            key=f"retry_{way.name}",
            on_click=_retry,
            args=(run.id, way.plan),
            width="stretch",
            help="A new run on the same data, linked to this one.",
        )


def parent(run: Run) -> None:
    """Say which run this one repeats, and in what it differs."""
    found = run_data.known([run.place.parent_id]) if run.place.parent_id else []
    if found:
        words = text.plain(", ".join(run_data.changes(found[0], run)) or "with the same plan")
        compare = address.link("compare both", [found[0].id, run.id])
        st.caption(f"Repeats {address.link(text.plain(found[0].id), [found[0].id])}: {words} ({compare})")


def share(run: Run) -> None:
    """Offer the merged model, and the Hub."""
    if not run_data.has_adapter(run):
        st.caption("Here the result can be merged and shared, once it is saved.")
        return
    if METHODS[run.plan.method].trains_adapter:
        st.markdown("**One model without an adapter**")
        if st.button("Merge into 16 bit", icon=":material/merge:", key="merge"):
            with notices.errors(), st.spinner("Merging in 32 bit, rounding once ..."):
                st.success(text.plain(f"Any tool can load {run_data.merged(run)}."), icon=":material/check:")
    st.markdown("**Hugging Face Hub**")
    with st.form("push", clear_on_submit=True):
        name = st.text_input("Repository", placeholder="owner/name", help="It is made if it does not exist.")
        token = st.text_input(
            "Token", type="password", autocomplete="off", help="One that may write. It is used once and kept nowhere."
        )
        private = st.checkbox("Private", value=True, help="Of a repository that is made.")
        asked = st.form_submit_button("Upload", icon=":material/upload:")
    if asked:
        with notices.errors(), st.spinner("Uploading adapter, plan, metrics and model card ..."):
            st.success(f"Uploaded to {text.plain(run_data.pushed(run, name, token, private=private))}.")


@notices.guarded
def _extend(run_id: str, steps: int) -> None:
    run_data.extend(run_id, steps)


@notices.guarded
def _retry(run_id: str, plan: FinetunePlan) -> None:
    address.show([remedies.retry(run_data.store().run(run_id), plan)])
