"""The run store: one SQLite file in WAL mode, shared by pages, command line and workers, and one folder a run."""

import dataclasses
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from specs import FinetunePlan, RunError
from trainer.contract import (
    ACTIVE,
    LOST_SECONDS,
    RESUMABLE,
    TRANSITIONS,
    Answer,
    DataSource,
    Event,
    Metric,
    Phase,
    Place,
    Run,
    State,
)

DATABASE = "runs.sqlite"
BUSY_SECONDS = 30.0

# Each entry takes the database from the version of its index to the next one.
_MIGRATIONS = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        token TEXT UNIQUE,
        parent_id TEXT,
        state TEXT NOT NULL,
        phase TEXT NOT NULL,
        device TEXT NOT NULL,
        model_path TEXT NOT NULL,
        plan TEXT NOT NULL,
        data TEXT NOT NULL,
        estimate TEXT,
        measured TEXT NOT NULL DEFAULT '{}',
        details TEXT NOT NULL DEFAULT '{}',
        attempt INTEGER NOT NULL DEFAULT 0,
        step INTEGER NOT NULL DEFAULT 0,
        total_steps INTEGER,
        stop_requested INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        error_kind TEXT,
        created_at REAL NOT NULL,
        queued_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        heartbeat_at REAL
    );
    CREATE INDEX runs_by_device ON runs (device, state, queued_at);
    CREATE TABLE metrics (
        run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        step INTEGER NOT NULL,
        epoch REAL,
        loss REAL,
        eval_loss REAL,
        learning_rate REAL,
        grad_norm REAL,
        tokens_per_second REAL,
        memory_bytes INTEGER,
        eta_seconds REAL,
        at REAL,
        PRIMARY KEY (run_id, step)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE INDEX events_by_run ON events (run_id, id);
    CREATE TABLE answers (
        run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        prompt TEXT NOT NULL,
        base TEXT NOT NULL,
        tuned TEXT NOT NULL,
        PRIMARY KEY (run_id, position)
    ) WITHOUT ROWID;
    """,
)

_METRIC_FIELDS = tuple(entry.name for entry in dataclasses.fields(Metric))
_SILENT = "The worker fell silent: it was killed, or its machine went down. Resume the run from its last checkpoint."
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")


class Store:
    """Everything that is known about runs; safe to use from several processes and threads at once."""

    def __init__(self, runs_folder: Path) -> None:
        self.folder = Path(runs_folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / DATABASE
        self._migrate()

    def create(
        self,
        plan: FinetunePlan,
        data: DataSource,
        estimate: Mapping[str, Any] | None = None,
        *,
        place: Place | None = None,
    ) -> Run:
        """Queue a run of a plan on data, or return the run that the same token made before."""
        where = place or Place()
        now = time.time()
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(2)}"
        values = {
            "id": run_id,
            "token": where.token,
            "parent_id": where.parent_id,
            "state": State.QUEUED,
            "phase": Phase.WAITING,
            "device": where.device,
            "model_path": where.model_path,
            "plan": json.dumps(plan.to_dict()),
            "data": json.dumps(dataclasses.asdict(data)),
            "estimate": None if estimate is None else json.dumps(dict(estimate)),
            "created_at": now,
            "queued_at": now,
        }
        with self._transaction() as db:
            made = None
            if where.token is not None:
                made = db.execute("SELECT id FROM runs WHERE token = ?", (where.token,)).fetchone()
            if made is None:
                _insert(db, "runs", values)
                _note(db, run_id, "state", "Queued.")
        return self.run(run_id if made is None else made["id"])

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises:
            RunError: If there is none of this id.
        """
        self._sweep()
        with self._connection() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunError("run", "must be the id of a stored run", run_id, "See the list of runs")
        return _run(row)

    def runs(self) -> tuple[Run, ...]:
        """Return all runs, the newest first."""
        self._sweep()
        with self._connection() as db:
            return tuple(_run(row) for row in db.execute("SELECT * FROM runs ORDER BY created_at DESC, id DESC"))

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run's files, made on first use.

        Raises:
            RunError: If the text is not of the form that ids have.
        """
        if not _ID.fullmatch(run_id):
            raise RunError("run", "must be the id of a stored run", run_id, "See the list of runs")
        folder = self.folder / run_id
        folder.mkdir(exist_ok=True)
        return folder

    def metrics(self, run_id: str, *, after_step: int = 0) -> tuple[Metric, ...]:
        """Return a run's metrics by step, only those after a step where one is given."""
        columns = ", ".join(_METRIC_FIELDS)
        query = f"SELECT {columns} FROM metrics WHERE run_id = ? AND step > ? ORDER BY step"  # noqa: S608 - own names
        with self._connection() as db:
            return tuple(Metric(**row) for row in db.execute(query, (run_id, after_step)))

    def add_metric(self, run_id: str, metric: Metric) -> None:
        """Store a step's metrics; what is None leaves what was stored for the step before."""
        values = {"run_id": run_id, **dataclasses.asdict(metric)}
        kept = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _METRIC_FIELDS if name != "step")
        with self._transaction() as db:
            _insert(db, "metrics", values, f"ON CONFLICT (run_id, step) DO UPDATE SET {kept}")
            db.execute("UPDATE runs SET step = max(step, ?) WHERE id = ?", (metric.step, run_id))

    def events(self, run_id: str, *, after_id: int = 0) -> tuple[Event, ...]:
        """Return what happened to a run, in order."""
        query = "SELECT id, at, kind, text FROM events WHERE run_id = ? AND id > ? ORDER BY id"
        with self._connection() as db:
            return tuple(Event(**row) for row in db.execute(query, (run_id, after_id)))

    def add_event(self, run_id: str, kind: str, text: str) -> None:
        """Note something that happened to a run."""
        with self._transaction() as db:
            _note(db, run_id, kind, text)

    def answers(self, run_id: str) -> tuple[Answer, ...]:
        """Return the prompts answered before and after the training."""
        query = "SELECT prompt, base, tuned FROM answers WHERE run_id = ? ORDER BY position"
        with self._connection() as db:
            return tuple(Answer(**row) for row in db.execute(query, (run_id,)))

    def set_answers(self, run_id: str, answers: Sequence[Answer]) -> None:
        """Replace the answers of a run."""
        with self._transaction() as db:
            db.execute("DELETE FROM answers WHERE run_id = ?", (run_id,))
            for position, answer in enumerate(answers):
                _insert(db, "answers", {"run_id": run_id, "position": position, **dataclasses.asdict(answer)})

    def request_stop(self, run_id: str) -> Run:
        """Ask a run to save and end; one that still waits ends at once, one that is over stays as it is."""
        with self._transaction() as db:
            state = _state(db, run_id)
            if state is State.QUEUED:
                _move(db, run_id, State.STOPPED)
            elif state in ACTIVE:
                db.execute("UPDATE runs SET stop_requested = 1 WHERE id = ?", (run_id,))
                if state is not State.STOPPING:
                    _move(db, run_id, State.STOPPING)
        return self.run(run_id)

    def request_resume(self, run_id: str, *, plan: FinetunePlan | None = None) -> Run:
        """Queue a stopped, failed or lost run again; with a longer plan, a finished one too.

        Raises:
            RunError: If the run is not over, or finished and given no longer plan.
        """
        with self._transaction() as db:
            state = _state(db, run_id)
            if state not in RESUMABLE and not (state is State.FINISHED and plan is not None):
                way_out = "Train more steps to extend it" if state is State.FINISHED else "Wait until it is over"
                raise RunError(f"run {run_id}", "can be resumed once stopped, failed or lost", str(state), way_out)
            _move(db, run_id, State.QUEUED)
            _update(db, run_id, queued_at=time.time(), stop_requested=0, error=None, error_kind=None, phase="waiting")
            if plan is not None:
                _update(db, run_id, plan=json.dumps(plan.to_dict()))
        return self.run(run_id)

    def extend(self, run_id: str, steps: int) -> Run:
        """Queue a run that is over again for more steps than it has done.

        The learning rate's schedule is laid over all steps anew.

        Raises:
            RunError: If the run is not over, or the number of steps is not positive.
        """
        if steps < 1:
            raise RunError("steps", "must be at least 1", steps)
        run = self.run(run_id)
        return self.request_resume(run_id, plan=dataclasses.replace(run.plan, max_steps=run.step + steps))

    def delete(self, run_id: str) -> None:
        """Forget a run that is over; its folder is the caller's to remove.

        Raises:
            RunError: If a worker is or will be busy with it.
        """
        with self._transaction() as db:
            state = _state(db, run_id)
            if state in ACTIVE or state is State.QUEUED:
                raise RunError(f"run {run_id}", "can be deleted once it is over", str(state), "Stop it first")
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def waiting_devices(self) -> tuple[str, ...]:
        """Return the devices that queued runs wait for."""
        with self._connection() as db:
            rows = db.execute("SELECT DISTINCT device FROM runs WHERE state = ?", (State.QUEUED,))
            return tuple(row["device"] for row in rows)

    def claim_next(self, device: str) -> Run | None:
        """Hand the oldest queued run of a free device to the caller, who must start its worker; None without one."""
        self._sweep()
        with self._transaction() as db:
            active = ", ".join("?" for _ in ACTIVE)
            busy = f"SELECT 1 FROM runs WHERE device = ? AND state IN ({active})"  # noqa: S608 - placeholders only
            if db.execute(busy, (device, *ACTIVE)).fetchone():
                return None
            oldest = "SELECT id FROM runs WHERE device = ? AND state = ? ORDER BY queued_at, id LIMIT 1"
            row = db.execute(oldest, (device, State.QUEUED)).fetchone()
            if row is None:
                return None
            _move(db, row["id"], State.PREPARING)
            db.execute("UPDATE runs SET attempt = attempt + 1, heartbeat_at = ? WHERE id = ?", (time.time(), row["id"]))
        return self.run(row["id"])

    def beat(self, run_id: str, attempt: int) -> bool:
        """Note that the worker lives; return whether the run is still its own.

        A run that was taken for lost, because its machine slept, is taken back.
        """
        with self._transaction() as db:
            row = db.execute("SELECT state, attempt, started_at FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None or row["attempt"] != attempt:
                return False
            if row["state"] == State.LOST:
                _move(db, run_id, State.PREPARING if row["started_at"] is None else State.RUNNING)
                _update(db, run_id, error=None, error_kind=None)
            _update(db, run_id, heartbeat_at=time.time())
            return True

    def enter(self, run_id: str, state: State, **fields: Any) -> None:
        """Move a run to a state and set fields of it in the same transaction.

        Raises:
            RunError: If the transition map has no such change.
        """
        with self._transaction() as db:
            _move(db, run_id, state)
            _update(db, run_id, **fields)

    def start_training(self, run_id: str) -> bool:
        """Move a prepared run to running; return False, and leave it, if it was asked to stop in the meantime."""
        with self._transaction() as db:
            if _state(db, run_id) is State.STOPPING:
                return False
            _move(db, run_id, State.RUNNING)
            db.execute("UPDATE runs SET started_at = coalesce(started_at, ?) WHERE id = ?", (time.time(), run_id))
            return True

    def set_phase(self, run_id: str, phase: Phase) -> None:
        """Note what the worker does now."""
        with self._transaction() as db:
            _update(db, run_id, phase=phase)
            _note(db, run_id, "phase", f"{phase.capitalize()}.")

    def set_total_steps(self, run_id: str, total_steps: int) -> None:
        """Note how many optimizer steps the run has in all."""
        with self._transaction() as db:
            _update(db, run_id, total_steps=total_steps)

    def add_measured(self, run_id: str, **values: Any) -> None:
        """Merge what the worker measured into ``Run.measured``."""
        self._merge(run_id, "measured", values)

    def add_details(self, run_id: str, **values: Any) -> None:
        """Merge what the worker found out into ``Run.details``."""
        self._merge(run_id, "details", values)

    def stop_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the run to save and end."""
        with self._connection() as db:
            row = db.execute("SELECT stop_requested FROM runs WHERE id = ?", (run_id,)).fetchone()
            return bool(row and row["stop_requested"])

    def _merge(self, run_id: str, column: str, values: Mapping[str, Any]) -> None:
        with self._transaction() as db:
            query = f"UPDATE runs SET {column} = json_patch({column}, ?) WHERE id = ?"  # noqa: S608 - own names
            db.execute(query, (json.dumps(values), run_id))

    def _sweep(self) -> None:
        """Mark the runs whose workers fell silent as lost."""
        active = ", ".join("?" for _ in ACTIVE)
        silent = f"SELECT id FROM runs WHERE state IN ({active}) AND heartbeat_at < ?"  # noqa: S608 - placeholders only
        found = (*ACTIVE, time.time() - LOST_SECONDS)
        with self._connection() as db:
            if not db.execute(silent, found).fetchone():
                return
        with self._transaction() as db:
            for row in db.execute(silent, found).fetchall():
                _move(db, row["id"], State.LOST)
                _update(db, row["id"], error=_SILENT, error_kind="lost")

    def _migrate(self) -> None:
        with self._connection() as db:
            db.execute("PRAGMA journal_mode = WAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            rule = f"has the format {version}, newer than this LoRAFit's {len(_MIGRATIONS)}"
            raise RunError(str(self._path), rule, None, "Update LoRAFit")
        while version < len(_MIGRATIONS):
            version = self._migrate_once()

    def _migrate_once(self) -> int:
        """Take the database one version up, unless another process just did; return its version."""
        with self._transaction() as db:
            version: int = db.execute("PRAGMA user_version").fetchone()[0]
            if version < len(_MIGRATIONS):
                for statement in _MIGRATIONS[version].split(";"):
                    db.execute(statement)
                version += 1
                db.execute(f"PRAGMA user_version = {version}")
            return version

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        finally:
            db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a connection in which all or nothing is written, and no other process writes between."""
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any], conflict: str = "") -> None:
    columns, marks = ", ".join(values), ", ".join("?" for _ in values)
    query = f"INSERT INTO {table} ({columns}) VALUES ({marks}) {conflict}"  # noqa: S608 - own names
    db.execute(query, tuple(values.values()))


def _update(db: sqlite3.Connection, run_id: str, **fields: Any) -> None:
    if fields:
        changes = ", ".join(f"{name} = ?" for name in fields)
        db.execute(f"UPDATE runs SET {changes} WHERE id = ?", (*fields.values(), run_id))  # noqa: S608 - own names


def _note(db: sqlite3.Connection, run_id: str, kind: str, text: str) -> None:
    _insert(db, "events", {"run_id": run_id, "at": time.time(), "kind": kind, "text": text})


def _state(db: sqlite3.Connection, run_id: str) -> State:
    row = db.execute("SELECT state FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        raise RunError("run", "must be the id of a stored run", run_id, "See the list of runs")
    return State(row["state"])


def _move(db: sqlite3.Connection, run_id: str, to: State) -> None:
    state = _state(db, run_id)
    if to not in TRANSITIONS[state]:
        raise RunError(f"run {run_id}", f"cannot become {to} from {state}")
    _update(db, run_id, state=to)
    _note(db, run_id, "state", f"{to.capitalize()}.")


def _run(row: sqlite3.Row) -> Run:
    data = json.loads(row["data"])
    plain = ("id", "attempt", "step", "total_steps", "error", "error_kind")
    times = ("created_at", "started_at", "finished_at", "heartbeat_at")
    return Run(
        state=State(row["state"]),
        phase=Phase(row["phase"]),
        plan=FinetunePlan.from_dict(json.loads(row["plan"])),
        data=DataSource(path=data["path"], columns=data["columns"], prompts=tuple(data["prompts"])),
        place=Place(**{name: row[name] for name in ("device", "model_path", "token", "parent_id")}),
        estimate=None if row["estimate"] is None else json.loads(row["estimate"]),
        measured=json.loads(row["measured"]),
        details=json.loads(row["details"]),
        stop_requested=bool(row["stop_requested"]),
        **{name: row[name] for name in (*plain, *times)},
    )
