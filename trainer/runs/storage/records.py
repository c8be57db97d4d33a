"""What a run records: metrics by step, events, answers. Each function reads or writes one kind."""

import dataclasses
import json
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from specs.secrecy import without_secrets
from trainer.runs.contract import Answer, Event, LossCurve, Metric, State
from trainer.runs.storage.rows import insert

_METRIC_FIELDS = tuple(entry.name for entry in dataclasses.fields(Metric))


def metrics(db: sqlite3.Connection, run_id: str, *, after_step: int = 0) -> tuple[Metric, ...]:
    """Return a run's metrics by step, optionally only those after a given step."""
    columns = ", ".join(_METRIC_FIELDS)
    query = f"SELECT {columns} FROM metrics WHERE run_id = ? AND step > ? ORDER BY step"  # noqa: S608 - own names
    return tuple(Metric(**row) for row in db.execute(query, (run_id, after_step)))


def add_metric(db: sqlite3.Connection, run_id: str, metric: Metric) -> None:
    """Store a step's metrics; a value of None keeps what is already stored for the step."""
    values = {"run_id": run_id, **dataclasses.asdict(metric)}
    kept = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _METRIC_FIELDS if name != "step")
    insert(db, "metrics", values, f"ON CONFLICT (run_id, step) DO UPDATE SET {kept}")
    db.execute("UPDATE runs SET step = max(step, ?) WHERE id = ?", (metric.step, run_id))


def loss_curves(db: sqlite3.Connection, points: int) -> dict[str, LossCurve]:
    """Return the training loss of every run in one query: means over about ``points`` groups of steps, and the last.

    SQLite takes a plain column beside ``max()`` from the row of the maximum:
    https://www.sqlite.org/lang_select.html#bareagg
    """
    query = """
        SELECT run_id, avg(loss), loss, max(metrics.step)
        FROM metrics JOIN runs ON runs.id = run_id
        WHERE loss IS NOT NULL
        GROUP BY run_id, (metrics.step - 1) * ? / max(runs.step, ?)
        ORDER BY run_id, metrics.step
    """
    means: dict[str, list[float]] = {}
    lasts: dict[str, float] = {}
    for run_id, mean, last, _ in db.execute(query, (points, points)):
        means.setdefault(run_id, []).append(mean)
        lasts[run_id] = last
    return {run_id: LossCurve(losses=tuple(values), last=lasts[run_id]) for run_id, values in means.items()}


def events(db: sqlite3.Connection, run_id: str, *, after_id: int = 0) -> tuple[Event, ...]:
    """Return the events of a run, in order."""
    query = "SELECT id, at, kind, text FROM events WHERE run_id = ? AND id > ? ORDER BY id"
    return tuple(Event(**row) for row in db.execute(query, (run_id, after_id)))


def worked_seconds(db: sqlite3.Connection, run_id: str, now: float) -> float:
    """Return for how long workers trained, saved and answered, from the changes of state that were noted.

    When a run was lost is noted only once somebody looks: its last step tells how long its worker had lived.
    """
    query = "SELECT at, text FROM events WHERE run_id = ? AND kind = 'state' ORDER BY id"
    ending = {f"{state.capitalize()}." for state in (State.STOPPED, State.FINISHED, State.FAILED, State.LOST)}
    total, began = 0.0, None
    for at, text in db.execute(query, (run_id,)).fetchall():
        if text == f"{State.RUNNING.capitalize()}." and began is None:
            began = at
        elif text in ending and began is not None:
            ended = _last_step_at(db, run_id, began, at) if text == f"{State.LOST.capitalize()}." else at
            total, began = total + ended - began, None
    return total if began is None else total + now - began


def _last_step_at(db: sqlite3.Connection, run_id: str, began: float, ended: float) -> float:
    query = "SELECT max(at) AS at FROM metrics WHERE run_id = ? AND at BETWEEN ? AND ?"
    found: float | None = db.execute(query, (run_id, began, ended)).fetchone()["at"]
    return began if found is None else found


def note(db: sqlite3.Connection, run_id: str, kind: str, text: str) -> None:
    """Record an event of a run; it names no secret."""
    insert(db, "events", {"run_id": run_id, "at": time.time(), "kind": kind, "text": without_secrets(text)})


def answers(db: sqlite3.Connection, run_id: str) -> tuple[Answer, ...]:
    """Return the prompts with the answers of the base and the tuned model."""
    query = "SELECT prompt, base, tuned FROM answers WHERE run_id = ? ORDER BY position"
    return tuple(Answer(**row) for row in db.execute(query, (run_id,)))


def set_answers(db: sqlite3.Connection, run_id: str, given: Sequence[Answer]) -> None:
    """Replace the answers of a run."""
    db.execute("DELETE FROM answers WHERE run_id = ?", (run_id,))
    for position, answer in enumerate(given):
        insert(db, "answers", {"run_id": run_id, "position": position, **dataclasses.asdict(answer)})


def merge(db: sqlite3.Connection, run_id: str, column: str, values: Mapping[str, Any]) -> None:
    """Merge values into a JSON column of a run; JSON has no word for what is not finite, which is left out."""
    query = f"UPDATE runs SET {column} = json_patch({column}, ?) WHERE id = ?"  # noqa: S608 - own names
    db.execute(query, (json.dumps(_finite(values), allow_nan=False), run_id))


def _finite(value: Any) -> Any:
    """Return plain values without the numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items() if not _is_endless(one)}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value if not _is_endless(one)]
    return value


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
