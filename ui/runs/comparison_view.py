"""Several runs side by side: their curves, where their plans differ, their results, and the sum of their adapters."""

from collections.abc import Sequence

import streamlit as st

from trainer.runs.contract import Run
from ui.parts import exhibits
from ui.runs import address, combination_view, curve_view
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
            combination_view.offer(runs)
