"""The database of the runs folder: its tables, connections, and transactions across processes."""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from specs import RunError

FILE = "runs.sqlite"
BUSY_SECONDS = 30.0

# Each entry takes the database from the version of its index to the next one.
MIGRATIONS = (
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
    # Plans lost the loss ``fused``, which no run could ever begin with.
    "UPDATE runs SET plan = json_set(plan, '$.loss', 'chunked') WHERE json_extract(plan, '$.loss') = 'fused'",
    # Silence is measured by the clock that runs from the machine's start: a wall clock jumps.
    """
    ALTER TABLE runs ADD COLUMN beat_at REAL;
    ALTER TABLE runs ADD COLUMN process TEXT;
    ALTER TABLE runs ADD COLUMN oom_kills INTEGER;
    UPDATE runs SET beat_at = -1e9 WHERE heartbeat_at IS NOT NULL
    """,
)


class Database:
    """One SQLite file in WAL mode, migrated to the newest format when opened; safe across processes and threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._migrate()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for reading."""
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        finally:
            db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that writes all or nothing, while no other process writes."""
        with self.connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _migrate(self) -> None:
        version = self._version()
        if version > len(MIGRATIONS):
            rule = f"has the format {version}, newer than this LoRAFit's {len(MIGRATIONS)}"
            raise RunError(str(self._path), rule, None, "Update LoRAFit")
        while version < len(MIGRATIONS):
            version = self._migrate_once()

    def _version(self) -> int:
        """Return the version of the database, in WAL mode.

        SQLite does not wait for another process that switches to this mode or closes the file: it is locked at once.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with self.connection() as db:
                    db.execute("PRAGMA journal_mode = WAL")
                    return int(db.execute("PRAGMA user_version").fetchone()[0])
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _migrate_once(self) -> int:
        """Upgrade the database by one version, unless another process just did; return its version."""
        with self.transaction() as db:
            version: int = db.execute("PRAGMA user_version").fetchone()[0]
            if version < len(MIGRATIONS):
                for statement in MIGRATIONS[version].split(";"):
                    db.execute(statement)
                version += 1
                db.execute(f"PRAGMA user_version = {version}")
            return version


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any], conflict: str = "") -> None:
    """Add a row; table and column names come from this program, never from input."""
    columns, marks = ", ".join(values), ", ".join("?" for _ in values)
    query = f"INSERT INTO {table} ({columns}) VALUES ({marks}) {conflict}"  # noqa: S608 - own names
    db.execute(query, tuple(values.values()))


def update(db: sqlite3.Connection, run_id: str, **fields: Any) -> None:
    """Change columns of a run."""
    if fields:
        changes = ", ".join(f"{name} = ?" for name in fields)
        db.execute(f"UPDATE runs SET {changes} WHERE id = ?", (*fields.values(), run_id))  # noqa: S608 - own names
