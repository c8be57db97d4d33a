"""The list of all runs, and the comparison of several."""

from collections.abc import Sequence

import streamlit as st

from trainer.results.tasks import COMBINATION_TYPES
from trainer.runs.contract import Run
from ui.runs import address, curve_view, run_data

COLUMNS = {
    "Run": st.column_config.TextColumn(pinned=True),
    "Loss": st.column_config.LineChartColumn("Loss", help="Training loss over steps."),
    "Last loss": st.column_config.NumberColumn(format="%.3f"),
}


def history(runs: Sequence[Run]) -> None:
    """Show all runs as a table; a selected one opens, several are compared."""
    st.title("Runs")
    rows = run_data.history(runs)
    table = st.dataframe(
        rows,
        key="history",
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        column_config=COLUMNS,
        alt=f"{len(runs)} runs, newest first",
    )
    selected = [runs[row].id for row in table["selection"]["rows"]]
    left, middle, right = st.columns([2, 4, 1], vertical_alignment="bottom")
    left.button(
        f"Compare {len(selected)} runs" if len(selected) > 1 else "Open the selected run",
        icon=":material/compare_arrows:" if len(selected) > 1 else ":material/open_in_full:",
        disabled=not selected,
        width="stretch",
        on_click=address.show,
        args=(selected,),
    )
    middle.selectbox("Or open a run by its ID", [run.id for run in runs], index=None, key="opened", on_change=_open)
    with right:
        _download(rows, "runs.csv")


def comparison(runs: Sequence[Run]) -> None:
    """Show the curves of several runs in one chart, where their plans differ, and their results."""
    address.back()
    st.title("Comparison")
    view = curve_view.view_controls(live=False)
    quantity = curve_view.quantity_control()
    series = [run_data.curve(run_data.metrics(run), quantity, run.id) for run in runs]
    curve_view.draw(series, view=view, quantity=quantity, key="comparison", height=380)
    st.header("Differences")
    differences = run_data.differences(runs)
    if differences["Setting"]:
        st.table(differences, border="horizontal", hide_index=True, alt="Settings in which the runs differ")
    else:
        st.caption("The plans are identical.")
    st.header("Results")
    rows = run_data.history(runs)
    st.dataframe(rows, hide_index=True, column_config=COLUMNS, alt="Results of the compared runs")
    with st.container(horizontal=True):
        _download(rows, "comparison.csv")
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


def _download(rows: dict[str, list[object]], name: str) -> None:
    st.download_button(
        "CSV", run_data.table_file(rows), name, "text/csv", icon=":material/download:", on_click="ignore"
    )


def _open() -> None:
    address.show([st.session_state["opened"]])
