"""One run on the page: live numbers, diagnosis and curves, answers before and after, plan, memory, log."""

from collections.abc import Sequence

import streamlit as st

from specs import gib
from trainer.runs.contract import Metric, Run
from trainer.runs.diagnosis import diagnoses
from ui.parts import notices, text
from ui.parts.bars import Bar, memory_bars
from ui.parts.curves import View
from ui.runs import address, after_view, chat_view, curve_view, run_data

TICK_SECONDS = 1.0
CHART_SECONDS = 2.0


def one(run: Run) -> None:
    """Show one run: what it is doing, its curves, its answers, and everything it was started with."""
    address.back()
    head, button = st.columns([4, 1], vertical_alignment="bottom")
    head.title(text.plain(run_data.title(run)))
    buttons(run, button)
    after_view.parent(run)
    numbers(run.id)
    view = curve_view.view_controls(live=not run.is_over)
    chart(run.id, view, curve_view.quantity_control())
    if run.is_over:
        after_view.next_steps(run)
    details(run)


def buttons(run: Run, place: st.delta_generator.DeltaGenerator) -> None:
    """Offer what can be done with a run in its current state."""
    if not run.is_over:
        place.button(
            "Stop and save",
            icon=":material/stop_circle:",
            width="stretch",
            key="stop",
            disabled=run.stop_requested,
            on_click=_stop,
            help="Finishes the current step, saves, lets both models answer the questions, then stops.",
        )
    elif run.is_resumable:
        place.button(
            text.on_accent("Resume"),
            type="primary",
            width="stretch",
            key="resume",
            on_click=_resume,
            help="Continues from the last checkpoint, on the same curve.",
        )


def numbers(run_id: str) -> None:
    """Show the run's numbers and refresh them every second until it is over."""
    over = run_data.store().run(run_id).is_over
    notices.fragment(_numbers, run_every=None if over else TICK_SECONDS)(run_id, was_over=over)


def chart(run_id: str, view: View, quantity: str) -> None:
    """Show a run's curves and refresh them until it is over; a pause freezes the chart for zooming."""
    over = run_data.store().run(run_id).is_over or st.session_state.get("pause", False)
    notices.fragment(_chart, run_every=None if over else CHART_SECONDS)(run_id, view, quantity)


def details(run: Run) -> None:
    """Show answers, plan, events and log of a run, and what can be done with its result."""
    answers, talk, plan, memory, share, log = st.tabs(["Before and after", "Chat", "Plan", "Memory", "Share", "Log"])
    with answers:
        before_and_after(run)
    with talk:
        chat_view.chat(run)
    with plan:
        st.table(run_data.plan_table(run.plan), border="horizontal", hide_index=True, alt="The plan of this run")
        st.download_button("Download plan.json", run.plan.to_json(), "plan.json", on_click="ignore")
    with memory:
        predicted_and_measured(run)
    with share:
        after_view.share(run)
    with log:
        st.table(run_data.event_table(run), border="horizontal", hide_index=True, alt="The events of this run")
        tail = run_data.log_tail(run)
        st.code(tail or "Nothing yet.", language=None, height=320, wrap_lines=True)


def before_and_after(run: Run) -> None:
    """Show the same prompts answered by the base model and by the tuned one."""
    answers = run_data.store().answers(run.id)
    if not answers:
        st.caption(
            "No prompts were answered in this run."
            if run.is_over
            else "When the run ends, the base model and the tuned model answer the same prompts."
        )
    for answer in answers:
        st.markdown(f"**{text.plain(answer.prompt)}**")
        before, after = st.columns(2)
        for column, label, words in ((before, "Base model", answer.base), (after, "Tuned model", answer.tuned)):
            with column.container(border=True, height="stretch"):
                st.caption(label)
                st.markdown(text.paragraphs(words) or "No answer.")


def predicted_and_measured(run: Run) -> None:
    """Show the predicted memory beside the measured one."""
    predicted, measured = run_data.predicted_peak(run), run_data.measured_peak(run)
    left, right = st.columns(2)
    left.metric("Predicted peak", gib(predicted) if predicted else "not estimated", border=True)
    right.metric(
        "Measured peak",
        gib(measured) if measured else "not measured" if run.is_over else "not measured yet",
        f"{measured / predicted - 1:+.1%}" if measured and predicted else None,
        delta_color="off",
        border=True,
    )
    if run.estimate and run.estimate.get("components"):
        bar = Bar(label="predicted", parts=run.estimate["components"])
        capacity = run.estimate.get("capacity_bytes")
        st.html(memory_bars([bar], alt="Predicted memory by part", capacity_bytes=capacity))


def _numbers(run_id: str, *, was_over: bool) -> None:
    run = run_data.store().run(run_id)
    if run.is_over != was_over:
        st.rerun()
    points = run_data.metrics(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(str(run.state), color=run_data.STATE_COLORS[run.state])
        st.markdown(run_data.activity(run))
        if run.is_active:
            st.caption(run_data.last_update(run))
    st.progress(run_data.progress(run))
    if run.error:
        st.error(text.plain(run.error), icon=":material/error:")
    _diagnosed(run, points)
    cells = st.grid(min_column_width=120)
    for label, shown, meaning in run_data.figures(run, points):
        cells.metric(label, shown, help=meaning, border=True)


def _diagnosed(run: Run, points: Sequence[Metric]) -> None:
    """Show what the curves reveal: the finding, its rule, and what to change."""
    for found in diagnoses(points):
        remedy = found.remedy(run.plan)
        change = f"{found.advice} Try {remedy}." if remedy else found.advice
        st.warning(
            f"**{found.name.capitalize()}.** {text.plain(found.sentence)} {text.plain(change)}  \n"
            f"Rule: {text.plain(found.rule)}",
            icon=":material/troubleshoot:",
        )


def _chart(run_id: str, view: View, quantity: str) -> None:
    run = run_data.store().run(run_id)
    points = run_data.metrics(run)
    series = run_data.curves(points, quantity)
    if not series:
        st.info(run_data.nothing_drawn(run, points, quantity), icon=":material/hourglass_top:")
        return
    curve_view.draw(series, view=view, quantity=quantity, key="curves")


@notices.guarded
def _stop() -> None:
    for run_id in address.named():
        run_data.store().request_stop(run_id)


@notices.guarded
def _resume() -> None:
    for run_id in address.named():
        run_data.resume(run_id)
