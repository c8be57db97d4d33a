"""Holds a run's model against its base, and says whether it got better."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from specs import RunError
from specs.doors.door import INTERRUPTED
from trainer.commands.showing import diagnosis_line
from trainer.data.source import DataSource
from trainer.results import evaluation, tasks
from trainer.results.evaluation import MOST_ANSWERS, MOST_ROWS, Evaluation, Wanted
from trainer.runs.contract import Run
from trainer.runs.diagnosis import diagnoses
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]

_POLL_SECONDS = 0.5


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
    }
    yield "evaluate", _evaluate, "hold the model against its base; ends with 1 if it is not better", options


def _evaluate(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    data = dataclasses.replace(run.data, path=tasks.data_file(given.data)) if given.data else None
    evaluation.start(store, run, Wanted(rows=given.rows, answers=given.answers, data=data and _whole(data)))
    try:
        found = _followed(store, run)
    except KeyboardInterrupt:
        evaluation.stop(store, run)
        return INTERRUPTED
    if found.stage != "done":
        raise RunError("evaluation", "ended before it found anything", None, found.sentence)
    if given.json:
        print(json.dumps({**found.found, "by_row": evaluation.rows(store, run)}, indent=2))
    else:
        for line in (*lines(found.found), *([] if found.is_better else _causes(store, run))):
            print(line)
    return 0 if found.is_better else 1


def _whole(data: DataSource) -> DataSource:
    """Return a file of other rows without the run's own split and questions."""
    return dataclasses.replace(data, split="train", evaluation_split="", prompts=())


def _followed(store: Store, run: Run) -> Evaluation:
    """Wait for the end of an evaluation, and say on standard error what it does."""
    told = ""
    while True:
        found = evaluation.latest(store, run)
        if found is None or found.stage != "running":
            return found or Evaluation(stage="failed", sentence="It left nothing behind")
        now = f"... {found.sentence}" + (f", {found.done:,} of {found.of:,}" if found.of else "")
        if now != told and sys.stderr.isatty():
            print(now, file=sys.stderr)
        told = now
        time.sleep(_POLL_SECONDS)


def _causes(store: Store, run: Run) -> Iterator[str]:
    """Yield what the curves of a run that is not better show, and what to change."""
    yield from (f"  {diagnosis_line(found, run)}" for found in diagnoses(store.metrics(run.id)))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was found: the verdict, then each quantity with its interval."""
    yield str(found["verdict"]["sentence"])
    for one in found["compared"]:
        change = f"{one['low']:+.4f} to {one['high']:+.4f}"
        yield f"  {one['label']}: {one['base']:.4f} -> {one['tuned']:.4f} on {one['rows']} rows, change {change} (95 %)"
