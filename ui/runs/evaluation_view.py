"""Whether the tuned model got better than its base: starts the evaluation, shows how far it is and what it found."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from specs import TASK_TYPES
from trainer.data.source import DataSource
from trainer.results import evaluation as evaluating
from trainer.results.evaluation import MOST_ANSWERS, MOST_ROWS, Evaluation, Wanted, learned_all
from trainer.runs.contract import Run
from ui.parts import exhibits, notices, text
from ui.parts.writing import sheet_of
from ui.runs import address, unseen_view
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
    elif not learned_all(run):
        _offer(run, latest)
    elif (other := unseen_view.ask(run)) is not None:
        _offer(run, latest, data=other)
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


def _offer(run: Run, latest: Evaluation | None, *, data: DataSource | None = None) -> None:
    """Offer to start an evaluation, and say why the last one ended early."""
    writes = TASK_TYPES[run.plan.task_type].writes
    st.caption(
        "The tuned model and its base read the same rows, none of which were learned. This uses the run's device "
        "and goes on when you leave the page."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rows = _number("Rows", 1, MOST_ROWS, key="evaluated rows")
        about = "For this many of the rows, both models also write an answer, which takes longer than reading."
        answers = _number("Answers", 0, MOST_ANSWERS, key="evaluated answers", about=about) if writes else MOST_ANSWERS
        benchmark, limit = _benchmark() if run.plan.task_type == "CAUSAL_LM" else ("", MOST_ROWS)
        run_code = writes and _run_code(run)
        wanted = Wanted(rows=rows, answers=answers, data=data, benchmark=benchmark, limit=limit, run_code=run_code)
        st.button(
            "Evaluate again" if latest is not None and latest.found else "Evaluate",
            icon=":material/balance:",
            key="evaluate",
            on_click=_start,
            args=(wanted,),
        )
    if latest is not None and latest.stage in {"failed", "stopped"}:
        st.warning(text.plain(latest.sentence), icon=":material/info:")


def _number(label: str, least: int, usual: int, *, key: str, about: str | None = None) -> int:
    return int(st.number_input(label, least, 1_000_000, usual, key=key, width=150, persist_state="session", help=about))


def _benchmark() -> tuple[str, int]:
    """Offer a task of lm-eval, and how many of its questions; without lm-eval say how to get it."""
    lacks = evaluating.lacks_benchmarks()
    about = (
        "A task of lm-eval, such as arc_easy, that both models are given too; its questions come from the Hub. "
        "Or the path of a task of yours, a YAML file."
    )
    name = st.text_input(
        "Benchmark",
        key="evaluated benchmark",
        width=180,
        persist_state="session",
        disabled=bool(lacks),
        placeholder="needs lm-eval" if lacks else "none",
        help=f"{about} Install it first: `{lacks}`" if lacks else about,
    )
    if lacks or not name.strip():
        return "", MOST_ROWS
    return name.strip(), _number("Questions", 1, MOST_ROWS, key="evaluated questions")


def _run_code(run: Run) -> bool:
    """Offer to run the answers, where the data brings tests; say why it cannot be done where it cannot."""
    if not run_data.brings_tests(run):
        return False
    lacks = run_data.lacks_sandbox()
    about = (
        "Runs what both models write as Python programs, with the tests in your data, and counts those that pass. Each "
        "runs in a sandbox: no network, none of your files, 10 seconds, little memory. Nobody has read this code."
    )
    return (
        st.checkbox(
            "Run the code in the answers",
            key="evaluated code",
            persist_state="session",
            disabled=bool(lacks),
            help=text.plain(lacks) if lacks else about,
        )
        and not lacks
    )


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
    for note in found.get("notes", ()):
        st.caption(text.plain(note))
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
def _start(wanted: Wanted) -> None:
    for run_id in address.named():
        run_data.evaluate(run_data.store().run(run_id), wanted)


@notices.guarded
def _keep(step: int) -> None:
    for run_id in address.named():
        run_data.keep(run_data.store().run(run_id), step)


@notices.guarded
def _stop() -> None:
    for run_id in address.named():
        run_data.stop_evaluation(run_data.store().run(run_id))
