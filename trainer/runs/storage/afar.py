"""What became of a run at another place, put into the store here: its steps, events, answers and measurements."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.runs.contract import TRANSITIONS, Answer, Metric, State
from trainer.runs.storage import ownership, records
from trainer.runs.storage.rows import insert, update

HEARD = "heard_event"
"""The key in ``Run.details`` of the number of the last event that was heard of, by the numbers of the place there."""

_PLAIN = ("phase", "total_steps")
_MERGED = ("measured", "details")
_TIMES = ("started_at",)


def put(db: sqlite3.Connection, run_id: str, told: Sequence[Mapping[str, Any]], *, ahead: float) -> None:
    """Put what a place told of a run into the store.

    Told twice, as after a lost connection, it changes nothing. How the run ended is left to whoever brings it back.

    Args:
        db: A transaction.
        run_id: The run.
        told: Each with a ``metric``, an ``event``, or the ``run`` as its record there has it.
        ahead: How many seconds the clock there is ahead of the one here.
    """
    row = db.execute("SELECT details FROM runs WHERE id = ?", (run_id,)).fetchone()
    heard = before = int(json.loads(row["details"]).get(HEARD, 0))
    for one in told:
        if metric := one.get("metric"):
            records.add_metric(db, run_id, Metric(**_shifted(metric, ("at",), ahead)))
        if (event := one.get("event")) and event["id"] > heard:
            heard = event["id"]
            if event["kind"] != "state" or event["text"] == f"{State.RUNNING.capitalize()}.":
                _note(db, run_id, _shifted(event, ("at",), ahead))
        if found := one.get("run"):
            _put_run(db, run_id, _shifted(found, _TIMES, ahead), one.get("answers") or ())
    if heard != before:
        records.merge(db, run_id, "details", {HEARD: heard})


def _put_run(db: sqlite3.Connection, run_id: str, found: Mapping[str, Any], answers: Sequence[Any]) -> None:
    update(db, run_id, **{name: found[name] for name in (*_PLAIN, *_TIMES) if found.get(name) is not None})
    for name in _MERGED:
        records.merge(db, run_id, name, found.get(name) or {})
    given = tuple(Answer(**answer) for answer in answers)
    if given and given != records.answers(db, run_id):
        records.set_answers(db, run_id, given)
    state = ownership.state_of(db, run_id)
    if found.get("started_at") is not None and State.RUNNING in TRANSITIONS[state]:
        update(db, run_id, state=State.RUNNING)  # the place notes that itself


def _note(db: sqlite3.Connection, run_id: str, event: Mapping[str, Any]) -> None:
    insert(db, "events", {"run_id": run_id, **{name: event[name] for name in ("at", "kind", "text")}})


def _shifted(values: Mapping[str, Any], names: Sequence[str], ahead: float) -> dict[str, Any]:
    """Return values with their times by the clock of this machine."""
    times = {name: values[name] - ahead for name in names if values.get(name) is not None}
    return {**values, **times}
