"""One run on the page: live numbers, diagnosis and curves, answers before and after, plan, memory, log."""

from collections.abc import Sequence

import streamlit as st

from specs import gib
from trainer.runs import distance, peaks
from trainer.runs.contract import UNKNOWN, Metric, Phase, Run, State
from trainer.runs.diagnosis import diagnoses
from ui.drawing.bars import Bar, memory_bars
from ui.drawing.curves import View
from ui.drawing.small_chart import small_charts
from ui.parts import exhibits, notices, text
from ui.parts.links import AGAIN
from ui.runs import (
    address,
    after_view,
    chat_view,
    combination_view,
    curve_view,
    evaluation_view,
    naming_view,
    race_view,
)
from ui.runs.facts import memory, phases, quantities, run_data, standing, tables, titles, wording
from ui.runs.sides import sides

TICK_SECONDS = 1.0
CHART_SECONDS = 2.0


def one(run: Run) -> None:
    """Show one run: what it is doing, its curves, its answers, and everything it was started with."""
    if naming_view.wants_change(run):
        st.switch_page("ui/plan/page.py", query_params={AGAIN: run.id})
    address.back()
    header(run)
    after_view.parent(run)
    if run.parts:
        combination_view.about(run)
    else:
        training(run)
    details(run)


def training(run: Run) -> None:
    """Show how the training of a run goes or went, and what can be done after it."""
    numbers(run)
    race_view.race(run)
    view = curve_view.view_controls(live=not run.is_over)
    charts(run, view)
    if run.is_over:
        after_view.next_steps(run)


def header(run: Run) -> None:
    """Show what a run is called, what was noted, and the one thing to do with it now; all else is in its menu."""
    if naming_view.is_asked(run):
        naming_view.form(run)
        return
    with st.container(horizontal=True, vertical_alignment="bottom", key="run header"):
        st.title(text.plain(titles.title(run)), width="stretch")
        if not run.parts:
            action(run)
        naming_view.menu(run, again=not run.parts)
    st.caption(text.plain(titles.about(run)))
    if run.note:
        st.markdown(text.paragraphs(run.note))


def action(run: Run) -> None:
    """Offer the one thing that can be done with a run in its current state."""
    if not run.is_over:
        answers = run.is_active and run.phase is Phase.EVALUATING
        st.button(
            "Skip the rest" if answers else "Stop" if run.state is State.QUEUED else "Stop and save",
            icon=":material/stop_circle:",
            key="stop",
            disabled=run.stop_requested and not answers,
            on_click=_stop,
            help="Everything is saved." if answers else wording.of(run.plan).stopping,
        )
    elif run.is_resumable:
        st.button(
            text.on_accent("Resume"),
            type="primary",
            key="resume",
            on_click=_resume,
            help="Continues from the last checkpoint, on the same curve.",
        )
    elif st.button(text.on_accent("Change and run again"), type="primary", key="again"):
        st.switch_page("ui/plan/page.py", query_params={AGAIN: run.id})


def numbers(run: Run) -> None:
    """Show the run's numbers and refresh them every second until it is over; a lost run may come back by itself."""
    still = run.is_over and run.state is not State.LOST
    notices.fragment(_numbers, run_every=None if still else TICK_SECONDS)(run.id, drawn=_drawn(run))


def charts(run: Run, view: View) -> None:
    """Show a run's curves and refresh them until it is over; a pause freezes the chart for zooming."""
    over = run.is_over or st.session_state.get("pause", False)
    every = None if over else CHART_SECONDS
    notices.fragment(_small, run_every=every)(run.id, view)
    quantity = curve_view.quantity_control(quantities.drawable(run, run_data.metrics(run)))
    notices.fragment(_chart, run_every=every)(run.id, view, quantity)


def details(run: Run) -> None:
    """Show answers, plan, events and log of a run, and what can be done with its result."""
    words = wording.of(run.plan)
    shown = {
        words.answers: before_and_after,
        "Evaluation": evaluation_view.evaluation,
        words.talk: chat_view.chat,
        "Plan": plan,
        "Memory": predicted_and_measured,
        "Share": after_view.share,
        "Log": log,
    }
    names = [name for name in shown if not (run.parts and name in {words.answers, "Memory"})]
    for name, tab in zip(names, st.tabs(names), strict=True):
        with tab:
            shown[name](run)


def plan(run: Run) -> None:
    """Show the plan of a run, and offer it as a file."""
    exhibits.table(tables.plan_table(run.plan), name="plan", alt="The plan of this run", about=tables.about(run))
    st.download_button("Download plan.json", run.plan.to_json(), "plan.json", on_click="ignore")


def log(run: Run) -> None:
    """Show what happened to a run, and the end of its log."""
    exhibits.table(tables.event_table(run), name="events", alt="The events of this run", about=tables.about(run))
    tail = run_data.log_tail(run)
    # The keyboard scrolls a container, but no code of a fixed height.
    with st.container(height=320, border=False, key="log lines"):
        st.code(tail or "Nothing yet.", language=None, wrap_lines=True)


def before_and_after(run: Run) -> None:
    """Show the same prompts answered by the base model and by the tuned one, or texts with the classes found."""
    answers, words = run_data.store().answers(run.id), wording.of(run.plan)
    if not answers:
        stops = run.stop_requested or run.state is State.STOPPING
        st.caption(words.none_answered if run.is_over else words.answered_soon if stops else words.answered_later)
    elif words.told:
        st.caption(words.told)
    for answer in answers:
        said = [(words.left, answer.base), (words.right, answer.tuned)]
        if wanted := run.expected(answer.prompt):
            said.append(("Answer in the data", wanted))
        sides(answer.prompt, [(label, text.paragraphs(one) or words.nothing) for label, one in said])


def predicted_and_measured(run: Run) -> None:
    """Show the predicted memory beside the measured one."""
    predicted, measured = memory.predicted_peak(run), memory.measured_peak(run)
    left, right = st.columns(2)
    why = (run.estimate or {}).get(UNKNOWN)
    shown = gib(predicted) if predicted else "unknown" if why else "not estimated"
    left.metric(
        "Predicted peak",
        shown,
        memory.prediction_error(run),
        delta_color="off",
        help=text.plain(why) if why else None,
        border=True,
    )
    right.metric(
        "Measured peak" if run.is_over else "Measured peak so far",
        gib(measured) if measured else "not measured" if run.is_over else "not measured yet",
        border=True,
    )
    if run.estimate and run.estimate.get("components"):
        bar = Bar(label="predicted", parts=run.estimate["components"])
        capacity = run.estimate.get("capacity_bytes")
        st.html(memory_bars([bar], alt="Predicted memory by part", capacity_bytes=capacity))


def _drawn(run: Run) -> tuple[object, ...]:
    """Return what decides which button a run has; once it differs, the whole page is drawn again."""
    answers = run.phase is Phase.EVALUATING
    return run.is_over, run.is_resumable, run.stop_requested, run.state is State.QUEUED, answers, run.races


def _numbers(run_id: str, *, drawn: tuple[object, ...]) -> None:
    run = run_data.store().run(run_id)
    if _drawn(run) != drawn:
        st.rerun()
    points = run_data.metrics(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(str(run.state), color=standing.STATE_COLORS[run.state])
        st.html(phases.strip(run), width="stretch")
        if run.is_active:
            st.caption(standing.last_update(run), width="content")
    st.progress(standing.progress(run))
    if words := distance.connection(run):
        st.warning(words, icon=":material/cloud_off:")
    if run.error:
        st.error(text.plain(run.error), icon=":material/error:")
    if words := memory.memory_found(run):
        st.info(text.plain(words), icon=":material/memory:")
    _diagnosed(run, points)
    cells = st.grid(min_column_width=150)
    for label, shown, meaning in standing.figures(run, points):
        cells.metric(label, shown, help=meaning, border=True)
    _memory_of_each(run)
    if run.is_over:
        exhibits.save(tables.numbers_sheet(run, points))


def _memory_of_each(run: Run) -> None:
    """Say what each of several processes took, beside what was predicted."""
    if told := peaks.of_each(run):
        st.caption(text.plain(f"Measured {told}."))


def _diagnosed(run: Run, points: Sequence[Metric]) -> None:
    """Show what the curves reveal: the finding, its rule, and what to change."""
    for found in diagnoses(points, run.plan.method):
        remedy = found.remedy(run.plan)
        change = f"{found.advice} Try {remedy}." if remedy else found.advice
        st.warning(
            f"**{found.name.capitalize()}.** {text.plain(found.sentence)} {text.plain(change)}  \n"
            f"Rule: {text.plain(found.rule)}{_rows_behind(run, found.step)}",
            icon=":material/troubleshoot:",
        )


def _rows_behind(run: Run, step: int | None) -> str:
    """Return the rows of a step that a diagnosis names, one in a line."""
    rows = run_data.rows_behind(run, step) if step is not None else {}
    told = (text.plain(f"Row {number:,}: {beginning}".rstrip(": ")) for number, beginning in rows.items())
    return "".join(f"  \n{line}" for line in told)


def _small(run_id: str, view: View) -> None:
    run = run_data.store().run(run_id)
    if drawn := quantities.small(run, run_data.metrics(run)):
        st.html(small_charts(drawn, view=view))


def _chart(run_id: str, view: View, quantity: str) -> None:
    run = run_data.store().run(run_id)
    points = run_data.metrics(run)
    series = quantities.curves(points, quantity)
    if not series:
        st.info(quantities.nothing_drawn(run, points, quantity), icon=":material/hourglass_top:")
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
