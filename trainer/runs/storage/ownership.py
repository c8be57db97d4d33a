"""Who works on a run: its state, its worker's heartbeats and death, and whose turn it is on a device."""

import sqlite3
import time
from pathlib import Path

from specs import RunError
from trainer.runs import deaths, processes
from trainer.runs.contract import ACTIVE, TRANSITIONS, State, cards
from trainer.runs.places import AT, queues_itself
from trainer.runs.storage import mirror, records
from trainer.runs.storage.rows import update


def beat() -> dict[str, float]:
    """Return a heartbeat by both clocks: one that people read, and one that never jumps."""
    return {"heartbeat_at": time.time(), "beat_at": time.monotonic()}


def owns(db: sqlite3.Connection, run_id: str, attempt: int) -> bool:
    """Return whether a run is in the hands of an attempt.

    A run that counted as lost is taken back, unless its device was given to another in the meantime.
    """
    row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None or row["attempt"] != attempt or row["deleted_at"] is not None:
        return False
    if row["state"] != State.LOST or row["error_kind"] != "lost" or _busy(db, row["device"]):
        return row["state"] in ACTIVE
    move(db, run_id, State.PREPARING if row["started_at"] is None else State.RUNNING)
    update(db, run_id, error=None, error_kind=None)
    return True


def _busy(db: sqlite3.Connection, device: str) -> bool:
    """Return whether a worker uses a device, or one of its cards."""
    active = ", ".join("?" for _ in ACTIVE)
    rows = db.execute(f"SELECT device FROM runs WHERE state IN ({active})", (*ACTIVE,))  # noqa: S608 - placeholders
    return any(cards(row["device"]) & cards(device) for row in rows)


def bury(db: sqlite3.Connection, row: sqlite3.Row, status: int | None, log: Path) -> None:
    """Record how the worker of an active run ended; a status of None says that it is silent."""
    gone = status is not None or (row["process"] is not None and not processes.lives(row["process"]))
    more = row["oom_kills"] is not None and deaths.oom_kills() > row["oom_kills"]
    kind, sentence = deaths.named(status, out_of_memory=gone and more, log=log)
    if kind == "out_of_memory":
        query = "SELECT max(memory_bytes) AS peak FROM metrics WHERE run_id = ?"
        if peak := db.execute(query, (row["id"],)).fetchone()["peak"]:
            records.merge(db, row["id"], "measured", {"peak_used_bytes": peak})
    move(db, row["id"], State.LOST if kind in {"lost", "killed"} else State.FAILED)
    update(db, row["id"], error=sentence, error_kind=kind)
    records.note(db, row["id"], "error", sentence)


def unknown(run_id: str) -> RunError:
    """Return the refusal of an id that no run has."""
    return RunError("run", "must be the id of a stored run", run_id, "See the list of runs")


def next_of(db: sqlite3.Connection, device: str) -> sqlite3.Row | None:
    """Return the queued run whose turn it is on a device; None while it is busy or a run elsewhere comes first."""
    marks = ", ".join("?" for _ in (*ACTIVE, State.QUEUED))
    query = f"SELECT id, device, state FROM runs WHERE state IN ({marks}) ORDER BY queued_at, id"  # noqa: S608 - marks
    rows = db.execute(query, (*ACTIVE, State.QUEUED)).fetchall()
    if queues_itself(device):
        return next((row for row in rows if row["device"] == device and row["state"] == State.QUEUED), None)
    near = [row for row in rows if cards(row["device"]) & cards(device)]
    if not near or any(row["state"] in ACTIVE for row in near) or near[0]["device"] != device:
        return None
    return near[0]


def forsaken(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """Return the runs at other places whose follower on this machine is gone."""
    marks = ", ".join("?" for _ in (*ACTIVE, State.LOST))
    query = f"SELECT * FROM runs WHERE state IN ({marks}) AND device LIKE ? AND deleted_at IS NULL"  # noqa: S608 - marks
    found = db.execute(query, (*ACTIVE, State.LOST, f"%{AT}%")).fetchall()
    # One that was only just claimed has no process yet.
    known = [row for row in found if row["process"] is not None or row["state"] == State.LOST]
    return [row for row in known if row["process"] is None or not processes.lives(row["process"])]


def state_of(db: sqlite3.Connection, run_id: str) -> State:
    """Return the state of a run.

    Raises:
        RunError: If there is no such run.
    """
    known = mirror.ID.fullmatch(run_id)  # SQLite refuses to look for what is not valid Unicode
    query = "SELECT state FROM runs WHERE id = ? AND deleted_at IS NULL"
    row = db.execute(query, (run_id,)).fetchone() if known else None
    if row is None:
        raise unknown(run_id)
    return State(row["state"])


def move(db: sqlite3.Connection, run_id: str, to: State) -> None:
    """Move a run to a state, and note it.

    Raises:
        RunError: If ``TRANSITIONS`` does not allow the change.
    """
    state = state_of(db, run_id)
    if to not in TRANSITIONS[state]:
        raise RunError(f"run {run_id}", f"cannot become {to} from {state}")
    update(db, run_id, state=to)
    records.note(db, run_id, "state", f"{to.capitalize()}.")
