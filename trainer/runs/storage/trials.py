"""The trials of a race: each in a folder of its own while the race is undecided, afterwards runs like others."""

import dataclasses
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specs import FinetunePlan
from trainer.runs.contract import DROPPED, Metric, Phase, State
from trainer.runs.race import Race
from trainer.runs.storage import records, shelf
from trainer.runs.storage.mirror import METRICS, new_id, readable_lines
from trainer.runs.storage.rows import insert, update

FOLDER = "race"
"""Where the trials lie within the folder of the run that begins with the race."""

_COPIED = ("device", "model_path", "data", "estimate", "details", "started_at")
"""What a trial has in common with its race."""

_LEFT = "Left the race:"
"""How the name of a trial begins that did not win."""


def folder_of(run_folder: Path, trial: int) -> Path:
    """Return the folder of a trial's checkpoints and metrics, whether or not there is one."""
    return run_folder / FOLDER / str(trial)


def add_metric(run_folder: Path, trial: int, metric: Metric) -> None:
    """Add what a trial measured at a step; of a step measured twice, as after a crash, the last one counts."""
    values = {name: value for name, value in dataclasses.asdict(metric).items() if value is not None}
    with (folder_of(run_folder, trial) / METRICS).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{json.dumps(values)}")  # the break comes first, so that a torn line spoils no other


def metrics(run_folder: Path, trial: int) -> tuple[Metric, ...]:
    """Return what a trial has measured so far, by step."""
    found: dict[int, dict[str, Any]] = {}
    for line in readable_lines(folder_of(run_folder, trial) / METRICS):
        step = int(line["step"])
        found[step] = {**found.get(step, {}), **line}
    return tuple(Metric(**found[step]) for step in sorted(found))


def record(db: sqlite3.Connection, run_id: str, race: Race) -> None:
    """Record what a race has found so far."""
    update(db, run_id, race=json.dumps(race.to_dict()))


def decide(db: sqlite3.Connection, run_id: str, trial: int, points: Sequence[Metric]) -> None:
    """Make a run that of the trial that won its race: its plan, and the curve that it has so far."""
    _, race, plan = _known(db, run_id)
    update(db, run_id, plan=json.dumps(race.plan_of(trial, plan).to_dict()), total_steps=race.steps.get(trial))
    record(db, run_id, dataclasses.replace(race, winner=trial))
    for point in points:
        records.add_metric(db, run_id, point)


def keep(db: sqlite3.Connection, run_id: str, trial: int, points: Sequence[Metric]) -> str:
    """Make a trial that did not win an archived run of its own, stopped where it was left; return its id.

    It can be compared with the winner, or be resumed to its end. Called twice, it returns the same run.
    """
    token = f"{DROPPED}{run_id} {trial}"
    made = db.execute("SELECT id FROM runs WHERE token = ?", (token,)).fetchone()
    if made is not None:
        return str(made["id"])
    row, race, plan = _known(db, run_id)
    now = time.time()
    kept = new_id(now)
    kind, sentence = race.out.get(trial, (None, None))
    values = {
        **{name: row[name] for name in _COPIED},
        "id": kept,
        "token": token,
        "parent_id": run_id,
        "state": State.FAILED if kind else State.STOPPED,
        "phase": Phase.DONE,
        "plan": json.dumps(race.plan_of(trial, plan).to_dict()),
        "name": f"{_LEFT} {race.label(trial, plan)}"[: shelf.LONGEST_NAME],
        "attempt": 1,
        "total_steps": race.steps.get(trial),
        "error": sentence,
        "error_kind": kind,
        **dict.fromkeys(("created_at", "queued_at", "finished_at", "archived_at"), now),
    }
    insert(db, "runs", values)
    for point in points:
        records.add_metric(db, kept, point)
    records.note(db, kept, "state", sentence or "Stopped, as another plan of its race did better.")
    return kept


def _known(db: sqlite3.Connection, run_id: str) -> tuple[sqlite3.Row, Race, FinetunePlan]:
    """Return the row of a run that begins with a race, its race and its plan."""
    row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row, Race.from_dict(json.loads(row["race"])), FinetunePlan.from_dict(json.loads(row["plan"]))
