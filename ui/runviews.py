"""A run on the page: live numbers, diagnosis and curves, answers before and after, plan, memory, log."""

from collections.abc import Sequence

import streamlit as st

from specs import gib
from trainer.contract import Metric, Run
from trainer.diagnosis import diagnoses
from ui import afterviews, chatviews, curveviews, notices, opening, running, text
from ui.bars import Bar, memory_bars
from ui.curves import View

TICK_SECONDS = 1.0
CHART_SECONDS = 2.0


def one(run: Run) -> None:
    """Show one run: what it does now, its curves, its answers, and everything it was started with."""
    opening.back()
    head, button = st.columns([4, 1], vertical_alignment="bottom")
    head.title(running.title(run))
    buttons(run, button)
    afterviews.parent(run)
    numbers(run.id)
    view = curveviews.view_controls(live=not run.is_over)
    chart(run.id, view, curveviews.quantity_control())
    if run.is_over:
        afterviews.next_steps(run)
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


def numbers(run_id: str) -> None:
    """Show the run's numbers, again every second while it is busy."""
    over = running.store().run(run_id).is_over
    st.fragment(_numbers, run_every=None if over else TICK_SECONDS)(run_id, was_over=over)


def chart(run_id: str, view: View, quantity: str) -> None:
    """Show a run's curves, again when points were added; a pause keeps the picture for zooming."""
    over = running.store().run(run_id).is_over or st.session_state.get("pause", False)
    st.fragment(_chart, run_every=None if over else CHART_SECONDS)(run_id, view, quantity)


def details(run: Run) -> None:
    """Show answers, plan, events and log of a run, and what can be done with its result."""
    answers, talk, plan, memory, share, log = st.tabs(["Before and after", "Chat", "Plan", "Memory", "Share", "Log"])
    with answers:
        before_and_after(run)
    with talk:
        chatviews.chat(run)
    with plan:
        st.table(running.plan_table(run.plan), border="horizontal", hide_index=True, alt="The plan of this run")
        st.download_button("Download plan.json", run.plan.to_json(), "plan.json", on_click="ignore")
    with memory:
        predicted_and_measured(run)
    with share:
        afterviews.share(run)
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
    _diagnosed(run, points)
    cells = st.grid(min_column_width=120)
    for label, shown, meaning in running.figures(run, points):
        cells.metric(label, shown, help=meaning, border=True)


def _diagnosed(run: Run, points: Sequence[Metric]) -> None:
    """Show what the curves say: what is seen, by which rule, what to change."""
    for found in diagnoses(points):
        remedy = found.remedy(run.plan)
        change = f"{found.advice} Try {remedy}." if remedy else found.advice
        st.warning(
            f"**{found.name.capitalize()}.** {text.plain(found.sentence)} {text.plain(change)}  \n"
            f"Rule: {text.plain(found.rule)}",
            icon=":material/troubleshoot:",
        )


def _chart(run_id: str, view: View, quantity: str) -> None:
    run = running.store().run(run_id)
    points = running.metrics(run)
    series = running.curves(points, quantity)
    if not series:
        st.info(running.nothing_drawn(run, points, quantity), icon=":material/hourglass_top:")
        return
    curveviews.picture(series, view=view, quantity=quantity, key="curves")


@notices.guarded
def _stop() -> None:
    for run_id in opening.named():
        running.store().request_stop(run_id)


@notices.guarded
def _resume() -> None:
    for run_id in opening.named():
        running.resume(run_id)
