"""A run on the page: live numbers and curves, answers before and after, comparison, history."""

from collections.abc import Sequence
from typing import Literal

import streamlit as st

from specs import FinetunePlan, gib
from trainer.contract import Run
from ui import charts, curves, mending, notices, running, text
from ui.bars import Bar, memory_bars

RUN = "run"
"""The parameter of the address that names runs."""

URL: Literal["query-params"] = "query-params"
TICK_SECONDS = 1.0
CHART_SECONDS = 2.0
COLUMNS = {
    "Run": st.column_config.TextColumn(pinned=True),
    "Loss": st.column_config.LineChartColumn("Loss", help="Training loss over steps."),
    "Last loss": st.column_config.NumberColumn(format="%.3f"),
}
RANGES = {"All": None, "Last 50 steps": 50, "Last 500 steps": 500}


def history(runs: Sequence[Run]) -> None:
    """Show all runs as a table; a ticked one opens, several are compared."""
    st.title("Runs")
    table = st.dataframe(
        running.history(runs),
        key="history",
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        column_config=COLUMNS,
        alt=f"{len(runs)} runs, the newest first",
    )
    ticked = [runs[row].id for row in table["selection"]["rows"]]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    left.button(
        f"Compare {len(ticked)} runs" if len(ticked) > 1 else "Open the ticked run",
        icon=":material/compare_arrows:" if len(ticked) > 1 else ":material/open_in_full:",
        disabled=not ticked,
        width="stretch",
        on_click=_show,
        args=(ticked,),
    )
    right.selectbox("Or open a run by its name", [run.id for run in runs], index=None, key="opened", on_change=_open)


def one(run: Run) -> None:
    """Show one run: what it does now, its curves, its answers, and everything it was started with."""
    back()
    head, button = st.columns([4, 1], vertical_alignment="bottom")
    head.title(running.title(run))
    buttons(run, button)
    numbers(run.id)
    view = view_controls()
    chart(run.id, view)
    if run.is_over:
        next_steps(run)
    details(run)


def buttons(run: Run, place: st.delta_generator.DeltaGenerator) -> None:
    """Offer what can be done with a run in its state."""
    if not run.is_over:
        place.button(
            "Stop and save",
            icon=":material/stop_circle:",
            width="stretch",
            key="stop",
            disabled=run.stop_requested,
            on_click=_stop,
            help="The worker finishes its step, saves adapter and optimizer, and ends.",
        )
    elif run.is_resumable:
        place.button(
            text.on_accent("Resume"),
            type="primary",
            width="stretch",
            key="resume",
            on_click=_resume,
            help="Goes on from the last checkpoint on the same curve.",
        )


def next_steps(run: Run) -> None:
    """Offer what can be done with a run that is over: take it away, train on, or mend it."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if running.has_adapter(run):
            st.download_button(
                "Adapter (zip)",
                lambda: running.adapter_file(run),
                f"{run.id}.zip",
                "application/zip",
                icon=":material/download:",
                on_click="ignore",
                help="Adapter, plan, metrics and model card.",
            )
        file = running.metrics_file(run)
        st.download_button("Metrics (CSV)", file, f"{run.id}.csv", icon=":material/download:", on_click="ignore")
        steps = st.number_input("More steps", 1, 1_000_000, 50, key="more", width=150)
        st.button("Train on", icon=":material/forward:", key="extend", on_click=_extend, args=(run.id, steps))
    if run.error_kind == mending.OUT_OF_MEMORY:
        mend(run)


def mend(run: Run) -> None:
    """Offer the same run with less memory, one change a button."""
    st.markdown("**What would need less memory**")
    for lever in mending.ways_on(run):
        words, button = st.columns([4, 1], vertical_alignment="center")
        words.markdown(
            f"`{lever.field}`: {text.plain(lever.text.removeprefix(lever.field))} ({text.plain(lever.cost)})"
        )
        button.button(
            "Apply and retry", key=f"retry_{lever.field}", on_click=_retry, args=(run.id, lever.plan), width="stretch"
        )


def numbers(run_id: str) -> None:
    """Show the run's numbers, again every second while it is busy."""
    over = running.store().run(run_id).is_over
    st.fragment(_numbers, run_every=None if over else TICK_SECONDS)(run_id, was_over=over)


def chart(run_id: str, view: curves.View) -> None:
    """Show the run's curves, again when points were added; a pause keeps the picture for zooming."""
    over = running.store().run(run_id).is_over or st.session_state.get("pause", False)
    st.fragment(_chart, run_every=None if over else CHART_SECONDS)(run_id, view)


def view_controls() -> curves.View:
    """Ask how the curves are to be drawn; the answers outlive every update."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        span = st.selectbox("Range", list(RANGES), key="range", bind=URL, width=160)
        smoothing = st.slider("Smoothing", 0.0, 0.95, 0.6, 0.05, key="smoothing", bind=URL, width=220)
        log_scale = st.toggle("Log scale", key="log", bind=URL)
        st.toggle("Pause updates", key="pause", help="Keeps the picture still, so that you can zoom.")
    return curves.View(smoothing=smoothing, log_scale=log_scale, last_steps=RANGES[span])


def details(run: Run) -> None:
    """Show answers, plan, events and log of a run."""
    answers, plan, memory, log = st.tabs(["Before and after", "Plan", "Memory", "Log"])
    with answers:
        before_and_after(run)
    with plan:
        st.table(running.plan_table(run.plan), border="horizontal", hide_index=True, alt="The plan of this run")
        st.download_button("Download plan.json", run.plan.to_json(), "plan.json", on_click="ignore")
    with memory:
        predicted_and_measured(run)
    with log:
        st.table(running.happened(run), border="horizontal", hide_index=True, alt="What happened to this run")
        tail = running.log_tail(run)
        st.code(tail or "Nothing yet.", language=None, height=320, wrap_lines=True)


def before_and_after(run: Run) -> None:
    """Show the same prompts answered by the base model and by the tuned one."""
    answers = running.store().answers(run.id)
    if not answers:
        st.caption("The same prompts are answered by the base model and the tuned one when the run ends.")
    for answer in answers:
        st.markdown(f"**{text.plain(answer.prompt)}**")
        before, after = st.columns(2)
        for column, label, words in ((before, "Base model", answer.base), (after, "Tuned model", answer.tuned)):
            with column.container(border=True, height="stretch"):
                st.caption(label)
                st.markdown(text.paragraphs(words) or "No answer.")


def predicted_and_measured(run: Run) -> None:
    """Show the memory that was predicted beside what was measured."""
    predicted, measured = running.predicted_peak(run), running.measured_peak(run)
    left, right = st.columns(2)
    left.metric("Predicted peak", gib(predicted) if predicted else "not estimated", border=True)
    right.metric(
        "Measured peak",
        gib(measured) if measured else "not measured yet",
        f"{measured / predicted - 1:+.1%}" if measured and predicted else None,
        delta_color="off",
        border=True,
    )
    if run.estimate and run.estimate.get("components"):
        bar = Bar(label="predicted", parts=run.estimate["components"])
        capacity = run.estimate.get("capacity_bytes")
        st.html(memory_bars([bar], alt="Predicted memory by part", capacity_bytes=capacity))


def comparison(runs: Sequence[Run]) -> None:
    """Show curves of several runs in one picture, and where their plans differ."""
    back()
    st.title("Comparison")
    view = view_controls()
    quantity = st.segmented_control(
        "Quantity",
        list(running.SERIES),
        default="loss",
        required=True,
        format_func=running.SERIES.__getitem__,
        key="quantity",
        bind=URL,
    )
    series = [running.curve(running.metrics(run), quantity, run.id) for run in runs]
    st.plotly_chart(
        curves.figure(series, view=view, quantity=running.SERIES[quantity], height=380),
        key="comparison",
        config=charts.CONFIG,
        alt=f"{running.SERIES[quantity]} of {len(runs)} runs over steps",
    )
    st.subheader("Only differences")
    st.table(running.differences(runs), border="horizontal", hide_index=True, alt="Settings in which the runs differ")
    st.subheader("Results")
    st.dataframe(running.history(runs), hide_index=True, column_config=COLUMNS, alt="Results of the compared runs")


def _numbers(run_id: str, *, was_over: bool) -> None:
    run = running.store().run(run_id)
    if run.is_over != was_over:
        st.rerun()
    points = running.metrics(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(str(run.state), color=running.STATE_COLORS[run.state])
        st.markdown(running.doing(run))
        if run.is_active:
            st.caption(running.silence(run))
    st.progress(running.progress(run))
    if run.error:
        st.error(text.plain(run.error), icon=":material/error:")
    cells = st.grid(min_column_width=120)
    for label, shown, meaning in running.figures(run, points):
        cells.metric(label, shown, help=meaning, border=True)


def _chart(run_id: str, view: curves.View) -> None:
    run = running.store().run(run_id)
    points = running.metrics(run)
    if not points:
        st.info(running.first_number(run), icon=":material/hourglass_top:")
        return
    loss = running.curve(points, "loss", "loss")
    held_out = running.curve(points, "eval_loss", "eval loss")
    st.plotly_chart(
        curves.figure([loss, *([held_out] if held_out.steps else [])], view=view, quantity="loss"),
        key="loss",
        config=charts.CONFIG,
        alt=f"Training loss {loss.values[-1]:.3f} at step {loss.steps[-1]}",
    )


def back() -> None:
    """Offer the way back to all runs."""
    st.button("All runs", icon=":material/arrow_back:", type="tertiary", key="back", on_click=st.query_params.clear)


@notices.guarded
def _stop() -> None:
    for run_id in st.query_params.get_all(RUN):
        running.store().request_stop(run_id)


@notices.guarded
def _resume() -> None:
    for run_id in st.query_params.get_all(RUN):
        running.resume(run_id)


@notices.guarded
def _extend(run_id: str, steps: int) -> None:
    running.extend(run_id, steps)


@notices.guarded
def _retry(run_id: str, plan: FinetunePlan) -> None:
    _show([mending.retry(running.store().run(run_id), plan)])


def _show(run_ids: list[str]) -> None:
    st.query_params[RUN] = run_ids


def _open() -> None:
    _show([st.session_state["opened"]])
