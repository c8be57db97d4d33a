"""Holds a run's model against its base, and says whether it got better."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from specs import DataError
from specs.doors.door import INTERRUPTED
from trainer.commands.showing import diagnosis_line
from trainer.data.source import DataSource, columns_of
from trainer.results import best, checkpoints, evaluation, tasks
from trainer.results.evaluation import MOST_ANSWERS, MOST_ROWS, Evaluation, Wanted
from trainer.runs.contract import Run
from trainer.runs.diagnosis import diagnoses
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]


def commands() -> Iterator[tuple[str, Command, str, dict[str, dict[str, Any]]]]:
    """Yield the command with what it does, in words and in code, and its options."""
    options: dict[str, dict[str, Any]] = {
        "id": {"metavar": "ID"},
        "--rows": {"type": int, "default": MOST_ROWS, "metavar": "N", "help": f"rows at most; {MOST_ROWS} by default"},
        "--answers": {
            "type": int,
            "default": MOST_ANSWERS,
            "metavar": "N",
            "help": f"rows to which both models also write answers, at most; {MOST_ANSWERS} by default",
        },
        "--data": {
            "type": Path,
            "metavar": "FILE",
            "help": "other rows than those the run held out; a file or a Hub id",
        },
        "--columns": {
            "nargs": "+",
            "metavar": "ROLE=COLUMN",
            "help": "which column of FILE has which role; as in the run by default",
        },
        "--split": {"metavar": "NAME", "help": "of a file that holds several; train by default"},
        "--benchmark": {
            "default": "",
            "metavar": "TASK",
            "help": "also give both models a task of lm-eval, or one of yours: FILE.yaml",
        },
        "--limit": {
            "type": int,
            "default": MOST_ROWS,
            "metavar": "N",
            "help": f"questions of each such task, at most; {MOST_ROWS} by default",
        },
        "--run-code": {
            "action": "store_true",
            "help": "also run both models' answers as programs, in a sandbox, with the tests of the rows",
        },
    }
    step: dict[str, dict[str, Any]] = {"id": {"metavar": "ID"}, "step": {"type": int, "metavar": "STEP"}}
    yield "keep", _keep, "make the weights of a checkpoint the result, which is asked, merged and exported", step
    yield "evaluate", _evaluate, "hold the model against its base; ends with 1 if it is not better", options


def _evaluate(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    wanted = Wanted(
        rows=given.rows,
        answers=given.answers,
        data=_other_rows(run.data, given),
        benchmark=given.benchmark,
        limit=given.limit,
        run_code=given.run_code,
    )
    evaluation.start(store, run, wanted)
    try:
        found = evaluation.waited_for(store, run, _tell)
    except KeyboardInterrupt:
        evaluation.stop(store, run)
        return INTERRUPTED
    if given.json:
        print(json.dumps({**found.found, "by_row": evaluation.rows(store, run)}, indent=2))
    else:
        kept = (f"  {words}" for words in best.told(store, run, store.metrics(run.id)))
        for line in (*lines(found.found), *kept, *([] if found.is_better else _causes(store, run))):
            print(line)
    return 0 if found.is_better else 1


def _keep(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    before = run.result_step
    best.keep(store, run, given.step)
    if given.json:
        print(json.dumps({"id": run.id, "result_step": given.step, "before": before}))
        return 0
    back = before in checkpoints.saved_steps(store.run_folder(run.id)) and before != given.step
    undo = f" To take it back: python -m trainer keep {run.id} {before}." if back else ""
    print(f"The result of run {run.id} is now the weights of step {given.step:,}.{undo}")
    return 0


def _other_rows(own: DataSource, given: argparse.Namespace) -> DataSource | None:
    """Return other rows than those the run left out: of another file, or another split of its own; None without.

    Raises:
        DataError: If columns are named and no other rows.
    """
    if given.data is None and given.split is None:
        if given.columns is not None:
            way_out = "Name the columns beside --data FILE"
            raise DataError("--columns", "is for other rows than those of the run", " ".join(given.columns), way_out)
        return None
    return evaluation.other_rows(
        own,
        path=tasks.data_file(given.data) if given.data else own.path,
        columns=own.columns if given.columns is None else columns_of(given.columns),
        split="train" if given.split is None else given.split,
    )


def _tell(found: Evaluation) -> None:
    """Say on standard error what an evaluation does, if somebody looks on."""
    if sys.stderr.isatty():
        print(f"... {found.sentence}" + (f", {found.done:,} of {found.of:,}" if found.of else ""), file=sys.stderr)


def _causes(store: Store, run: Run) -> Iterator[str]:
    """Yield what the curves of a run that is not better show, and what to change."""
    yield from (f"  {diagnosis_line(found, run)}" for found in diagnoses(store.metrics(run.id), run.plan.method))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was found: the verdict, then each quantity with its interval."""
    yield str(found["verdict"]["sentence"])
    for one in found["compared"]:
        change = f"{one['low']:+.4f} to {one['high']:+.4f}"
        yield f"  {one['label']}: {one['base']:.4f} -> {one['tuned']:.4f} on {one['rows']} rows, change {change} (95%)"
    yield from (f"  {note}" for note in found.get("notes", ()))
