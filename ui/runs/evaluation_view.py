"""Whether the tuned model got better than its base: starts the evaluation, shows how far it is and what it found."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from specs import TASK_TYPES
from trainer.results.evaluation import MOST_ANSWERS, MOST_ROWS, Evaluation, Wanted, learned_all
from trainer.runs.contract import Run
from ui.parts import exhibits, notices, text
from ui.parts.writing import sheet_of
from ui.runs import address
from ui.runs.facts import run_data
from ui.runs.facts.evaluated import marked, measures, row_table
from ui.runs.sides import sides

TICK_SECONDS = 1.0
SHOWN = 20
"""Rows whose answers are shown at once."""
_SAID = {"Base model": "base", "Tuned model": "tuned"}


def evaluation(run: Run) -> None:
    """Offer to evaluate a run's result, and show the newest evaluation."""
    if not run_data.has_adapter(run):
        st.caption("Once the run has saved its result, it can be compared with the base model here.")
        return
    _checkpoint(run)
    latest = run_data.evaluation(run)
    if latest is not None and latest.stage == "running":
        notices.fragment(_under_way, run_every=TICK_SECONDS)(run.id)
    elif learned_all(run) and run.parts:
        st.caption(
            "Its runs share their data, and one may have learned what another held out. Evaluate it on other rows: "
            f"`python -m trainer evaluate {run.id} --data FILE`"
        )
    elif learned_all(run):
        st.caption(
            "This run learned every row of its data, and a model must be judged by other rows. Choose *Change "
            f"and run again* and set `eval_split` to 0.1, or run `python -m trainer evaluate {run.id} --data FILE`"
        )
    else:
        _offer(latest, writes=TASK_TYPES[run.plan.task_type].writes)
    if latest is not None and latest.found:
        _found(run, latest.found)


def _checkpoint(run: Run) -> None:
    """Say which checkpoint is the best on held-out rows, and offer to make it the result."""
    best = run_data.best(run)
    if best is None:
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    words.caption(text.plain(best.sentence(run.id)))
    if best.is_better and best.is_saved:
        about = "Ask, merge, evaluate, download and upload then take these weights. The last ones stay in a checkpoint."
        label = f"Keep step {best.step:,}"
        button.button(label, key="keep checkpoint", on_click=_keep, args=(best.step,), help=about, width="stretch")


def _offer(latest: Evaluation | None, *, writes: bool) -> None:
    """Offer to start an evaluation, and say why the last one ended early."""
    st.caption(
        "The tuned model and its base read the same rows, none of which were learned. This uses the run's device "
        "and goes on when you leave the page."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rows = st.number_input(
            "Rows", 1, 1_000_000, MOST_ROWS, key="evaluated rows", width=150, persist_state="session"
        )
        answers = MOST_ANSWERS
        if writes:
            answers = st.number_input(
                "Answers",
                0,
                1_000_000,
                MOST_ANSWERS,
                key="evaluated answers",
                width=150,
                persist_state="session",
                help="For this many of the rows, both models also write an answer, which takes longer than reading.",
            )
        st.button(
            "Evaluate again" if latest is not None and latest.found else "Evaluate",
            icon=":material/balance:",
            key="evaluate",
            on_click=_start,
            args=(int(rows), int(answers)),
        )
    if latest is not None and latest.stage in {"failed", "stopped"}:
        st.warning(text.plain(latest.sentence), icon=":material/info:")


def _under_way(run_id: str) -> None:
    latest = run_data.evaluation(run_data.store().run(run_id))
    if latest is None or latest.stage != "running":
        st.rerun()
    count = f", {latest.done:,} of {latest.of:,}" if latest.of else ""
    st.progress(latest.done / latest.of if latest.of else 0.0, f"Evaluating: {latest.sentence}{count}")
    st.button("Stop", icon=":material/stop_circle:", key="stop evaluation", on_click=_stop)


def _found(run: Run, found: Mapping[str, Any]) -> None:
    """Show the verdict, what was measured, and the answers of both models beside each other."""
    verdict = found["verdict"]
    show = st.success if verdict["better"] else st.error if verdict["worse"] else st.info
    show(text.plain(verdict["sentence"]), icon=":material/balance:")
    if found["step"] != run.result_step:
        st.caption(
            f"Measured with the weights of step {found['step']:,}; the result is now those of step {run.result_step:,}."
        )
    exhibits.table(
        measures(found["compared"]),
        name="evaluation",
        alt="What was measured of the base model and of the tuned one, and the difference",
        about={"Run": run.id, "Rows": f"{found['rows']} of {found['of']} {found['basis']}", "Step": str(found["step"])},
    )
    st.caption(
        "Change: the tuned model less the one beside it, as a range that holds the true change with 95% confidence. p: "
        "how likely a difference as large as this one would be by chance alone."
    )
    _rows(run)


def _rows(run: Run) -> None:
    """Show rows with both answers, those that a search finds; words that are not in the data's answer are bold."""
    rows = [row for row in run_data.evaluated_rows(run) if "base" in row]
    if not rows:
        return
    words = st.text_input("Search the answers", key="evaluation search", icon=":material/search:")
    kept = [row for row in rows if words.lower() in " ".join(map(str, row.values())).lower()] if words else rows
    for row in kept[:SHOWN]:
        said = [(label, marked(row["answer"], row[name]) or "Nothing.") for label, name in _SAID.items()]
        sides(row["question"], [*said, ("In the data", text.paragraphs(row["answer"]))])
    exhibits.save(sheet_of("answers", row_table(kept), {"Run": run.id}))
    if len(kept) != len(rows) or len(kept) > SHOWN:
        st.caption(f"{min(SHOWN, len(kept)):,} of {len(rows):,} rows are shown; the files have all that were found.")


@notices.guarded
def _start(rows: int, answers: int) -> None:
    for run_id in address.named():
        run_data.evaluate(run_data.store().run(run_id), Wanted(rows=rows, answers=answers))


@notices.guarded
def _keep(step: int) -> None:
    for run_id in address.named():
        run_data.keep(run_data.store().run(run_id), step)


@notices.guarded
def _stop() -> None:
    for run_id in address.named():
        run_data.stop_evaluation(run_data.store().run(run_id))
