"""Several runs side by side: their curves, where their plans differ, their results, and the sum of their adapters."""

from collections.abc import Sequence

import streamlit as st

from trainer.results.tasks import COMBINATION_TYPES
from trainer.runs.contract import Run
from ui.parts import exhibits
from ui.runs import address, curve_view
from ui.runs.facts import quantities, run_data, tables, titles

COLUMNS = {
    "Run": st.column_config.TextColumn(pinned=True),
    "Loss": st.column_config.LineChartColumn("Loss", help="Training loss over steps."),
    "Last loss": st.column_config.NumberColumn(format="%.3f"),
}


def comparison(runs: Sequence[Run]) -> None:
    """Show the curves of several runs in one chart, where their plans differ, and their results."""
    address.back()
    st.title("Comparison")
    view = curve_view.view_controls(live=False)
    quantity = curve_view.quantity_control(quantities.drawable_of_all(runs))
    names = titles.labels(runs)
    series = [quantities.curve(run_data.metrics(run), quantity, name) for run, name in zip(runs, names, strict=True)]
    curve_view.exhibit(series, view=view, quantity=quantity, name="comparison", height=380)
    st.header("Differences")
    differences = tables.differences(runs)
    if differences["Setting"]:
        exhibits.table(differences, name="differences", alt="Settings in which the runs differ")
    else:
        st.caption("The plans are identical.")
    st.header("Results")
    st.dataframe(tables.history(runs), hide_index=True, column_config=COLUMNS, alt="Results of the compared runs")
    exhibits.save(tables.sheet("results", runs))
    if all(run_data.has_adapter(run) for run in runs):
        with st.expander("Combine these adapters", icon=":material/join_inner:"):
            combination(runs)


def combination(runs: Sequence[Run]) -> None:
    """Offer the weighted sum of the runs' adapters as a new adapter."""
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
        with st.spinner("Combining the adapters ..."):
            file = run_data.combined_file([run.id for run in runs], weights, kind)
        st.download_button(
            "Combined adapter (zip)",
            file,
            "combined.zip",
            "application/zip",
            icon=":material/download:",
            on_click="ignore",
        )
