"""What the page offers after a run: download it, train longer, retry with a fix, merge, share."""

from collections.abc import Sequence

import streamlit as st

from specs import METHODS, FinetunePlan
from trainer.runs.contract import Metric, Run
from ui.parts import notices, text
from ui.runs import address, quantized_view, serving_view
from ui.runs.facts import remedies, run_data, tables


def next_steps(run: Run) -> None:
    """Offer the files of a run, more steps, and fixes."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        adapter_button(run)
        file = run_data.metrics_file(run)
        st.download_button("Metrics (CSV)", file, f"{run.id}.csv", icon=":material/download:", on_click="ignore")
        steps = st.number_input("More steps", 1, 1_000_000, 50, key="more", width=150)
        st.button("Train longer", icon=":material/forward:", key="extend", on_click=_extend, args=(run.id, steps))
    offer_fixes(run, run_data.metrics(run))


def adapter_button(run: Run) -> None:
    """Offer the result of a run as a file, once there is one."""
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


def offer_fixes(run: Run, points: Sequence[Metric]) -> None:
    """Offer the same run with what its failure or its curves call for, one button per change."""
    with st.spinner("Working out what would help ..."):
        fixes = remedies.fixes(run, points)
    if not fixes:
        return
    st.markdown("**What would help**")
    if run.error_kind == remedies.OUT_OF_MEMORY:
        st.caption(text.plain(f"Memory: {remedies.shortage(run)}."))
    for fix in fixes:
        words, button = st.columns([4, 1], vertical_alignment="center")
        words.markdown(text.plain(fix.words))
        button.button(
            "Apply and retry",
            key=f"retry_{fix.name}",
            on_click=_retry,
            args=(run.id, fix.plan),
            width="stretch",
            help="Starts a new run on the same data, linked to this one.",
        )


def parent(run: Run) -> None:
    """Say which run this one repeats, and how it differs."""
    found = run_data.known([run.place.parent_id]) if run.place.parent_id else []
    if found:
        words = text.plain(", ".join(tables.changes(found[0], run)) or "with the same plan")
        compare = address.link("compare both", [found[0].id, run.id])
        how = "Was dropped in the race of" if run.left_race else "Repeats"
        st.caption(f"{how} {address.link(text.plain(found[0].id), [found[0].id])}: {words} ({compare})")


def share(run: Run) -> None:
    """Offer the merged model, and the Hub."""
    if not run_data.has_adapter(run):
        st.caption("Once the run has saved its result, you can merge and share it here.")
        return
    if METHODS[run.plan.method].trains_adapter:
        st.markdown("**Merged model**")
        if st.button("Merge in 16 bit", icon=":material/merge:", key="merge"):
            with notices.errors(), st.spinner("Merging in 32 bit, rounding once ..."):
                st.success(
                    text.plain(f"Saved in {run_data.merged(run)}. Any tool can load it."), icon=":material/check:"
                )
    if run.plan.task_type == "CAUSAL_LM":
        quantized_view.quantized(run)
        serving_view.serving(run)
    st.markdown("**Hugging Face Hub**")
    with st.form("push", clear_on_submit=True):
        name = st.text_input("Repository", placeholder="owner/name", help="Created if it does not exist.")
        token = st.text_input(
            "Token",
            type="password",
            autocomplete="off",
            help="A token with write access. It is used once and never stored.",
        )
        private = st.checkbox("Private", value=True, help="Applies to a new repository only.")
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
