"""The list of runs: search and filters, a row for each run that opens it, what can be done with one, and the trash."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeVar

import streamlit as st

from specs import METHODS
from trainer.runs.contract import LossCurve, Run, State
from ui.drawing.sparkline import sparkline
from ui.parts import exhibits, notices, text
from ui.runs import address, naming_view, space_view
from ui.runs.facts import memory, run_data, shelf, standing, tables, titles

ROWS = 20
"""How many runs are shown at first, and how many more each time."""

WATCH_SECONDS = 3.0
_Value = TypeVar("_Value", bound=str)
_TICK, _LIMIT = "tick ", "rows shown"
_COLORS: Mapping[str, str] = {
    "gray": "light-dark(#5A5D66, #A9ACB4)",
    "blue": "light-dark(#1F4E8C, #9CC3F5)",
    "orange": "light-dark(#8A4A00, #F3B562)",
    "green": "light-dark(#14602A, #7BD693)",
    "red": "light-dark(#A3202B, #FF9A9F)",
}
"""The colours of words of the theme."""

# The name's button is stretched over its row, so that a click anywhere in it opens the run.
_STYLE = """<style>
[class*="st-key-row-"] { position: relative; }
[class*="st-key-row-"]:hover { border-color: light-dark(#3D4FB5, #97A3F5); }
[class*="st-key-open-"] button::after { content: ""; position: absolute; inset: 0; z-index: 1; }
[class*="st-key-open-"], [class*="st-key-open-"] * { position: static !important; text-align: left; }
[class*="st-key-tick-"], [class*="st-key-menu-"] { position: relative; z-index: 2; }
</style>"""


def listing(runs: Sequence[Run]) -> None:
    """Show all runs: those that are wanted as rows, then the trash."""
    st.title("Runs")
    naming_view.deleted_notice()
    curves = run_data.store().loss_curves()
    chosen = shelf.found(runs, _wanted(runs), {run_id: curve.last for run_id, curve in curves.items()})
    _with_ticked(chosen)
    st.html(_STYLE)
    limit = st.session_state.get(_LIMIT, ROWS)
    for run in chosen[:limit]:
        _row(run, curves.get(run.id))
    if not chosen:
        st.caption("No run is like that.")
    if len(chosen) > limit:
        st.button(
            f"Show {min(ROWS, len(chosen) - limit)} more of {len(chosen):,}", key="more rows", on_click=_show_more
        )
    naming_view.trash()
    space_view.space_taken()
    if any(not run.is_over for run in runs):
        notices.fragment(_watch, run_every=WATCH_SECONDS)({run.id: _activity(run) for run in runs})


def _wanted(runs: Sequence[Run]) -> shelf.Wanted:
    """Ask which runs to list."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            "Search", key="find", placeholder="name, note, model, data or ID", persist_state="page", width=340
        )
        order = st.selectbox("Order", shelf.ORDERS, key="order", persist_state="page", width=150)
        number = sum(run.archived_at is not None for run in runs)
        archived = st.toggle(f"Archive ({number:,})", key="archived", persist_state="page")
    with st.container(horizontal=True, gap="medium"):
        states = _some_of("State", "states", [state for state in State if any(run.state is state for run in runs)])
        kept = _some_of("Model", "models", sorted({titles.short_model(run) for run in runs}))
    return shelf.Wanted(words=words, states=states, models=kept, archived=archived, order=order)


def _some_of(title: str, key: str, found: Sequence[_Value]) -> Sequence[_Value]:
    """Ask which of the values that runs have to list, where they have several; none chosen lists all."""
    values = list(dict.fromkeys((*found, *st.session_state.get(key, ()))))
    if len(values) < 2:
        return ()
    chosen: Sequence[_Value] = st.pills(
        title,
        values,
        selection_mode="multi",
        key=key,
        persist_state="page",
        format_func=text.option,
        width="content",
        wrap=True,
    )
    return chosen


def _with_ticked(runs: Sequence[Run]) -> None:
    """Offer what can be done with the ticked runs, and the list as a file."""
    ticked = [run for run in runs if st.session_state.get(f"{_TICK}{run.id}")]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"Compare {len(ticked)} runs" if len(ticked) > 1 else "Tick two to compare",
            icon=":material/compare_arrows:",
            disabled=len(ticked) < 2,
            key="compare",
            on_click=address.show,
            args=([run.id for run in ticked],),
        )
        if ticked:
            taken = text.size(sum(shelf.size_bytes(run) for run in ticked))
            st.button(f"Delete ({taken})", icon=":material/delete:", on_click=naming_view.delete, args=(ticked,))
        exhibits.save(tables.sheet("runs", runs))


def _row(run: Run, curve: LossCurve | None) -> None:
    if naming_view.is_asked(run):
        with st.container(border=True):
            naming_view.form(run)
        return
    with st.container(
        horizontal=True, border=True, vertical_alignment="center", gap="small", key=f"row-{run.id}", wrap=True
    ):
        name = titles.title(run)
        with st.container(key=f"tick-{run.id}", width="content"):
            st.checkbox(f"Tick run {run.id}", key=f"{_TICK}{run.id}", label_visibility="collapsed")
        with st.container(key=f"open-{run.id}", width=230):
            st.button(text.plain(name), key=f"open {run.id}", type="tertiary", on_click=address.show, args=([run.id],))
        st.html(facts(run, curve), width="stretch")
        with st.container(key=f"menu-{run.id}", width="content"):
            naming_view.menu(run)


def facts(run: Run, curve: LossCurve | None) -> str:
    """Return what a row says of a run besides its name, as markup."""
    color = _COLORS[standing.STATE_COLORS[run.state]]
    kind = f"{titles.short_model(run)}, {METHODS[run.plan.method].label}" if run.name else titles.data_name(run)
    beside = f"{titles.data_name(run)}, {titles.date(run.created_at)}" if run.name else titles.date(run.created_at)
    losses = curve.losses if curve else ()
    line = sparkline(losses, alt=f"loss from {losses[0]:.3g} to {losses[-1]:.3g}") if losses else ""
    cells = (
        (f"<b style='color:{color}'>{escape(str(run.state))}</b>", standing.activity(run)),
        (escape(kind), beside),
        (line, ""),
        # A combination has trained nothing.
        ("", "") if run.parts else (f"{curve.last:.3f}" if curve else "–", "last loss"),
        ("", "") if run.parts else memory.peak_against_predicted(run),
    )
    shown = "".join(
        f"<div style='min-width:0;overflow-wrap:anywhere'>{top}"
        f"<div style='opacity:0.75;font-size:0.8rem'>{escape(below)}</div></div>"
        for top, below in cells
    )
    note = f"<div style='opacity:0.85;font-size:0.85rem;white-space:pre-line'>{escape(run.note)}</div>"
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:0.4rem 1rem;align-items:center"
    row = f"<div style='{grid};line-height:1.3'>{shown}</div>"
    return f"{row}{note if run.note else ''}"


def _activity(run: Run) -> tuple[State, str]:
    return run.state, str(run.phase)


def _watch(seen: dict[str, tuple[State, str]]) -> None:
    """Draw the list again once a run is in another state, or another run is there."""
    if {run.id: _activity(run) for run in run_data.store().runs()} != seen:
        st.rerun()


def _show_more() -> None:
    st.session_state[_LIMIT] = st.session_state.get(_LIMIT, ROWS) + ROWS
