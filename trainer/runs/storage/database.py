"""The database of the runs folder: its tables, connections, and transactions across processes."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specs import RunError
from specs.doors import faults
from trainer.files import interlock
from trainer.runs.storage import mirror, private, unusable

FILE = "runs.sqlite"
UPLOADS = "uploads"
"""Where the pages keep files that people upload."""
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
    # What a person says of a run, whether it is put away, and how the card fared.
    """
    ALTER TABLE runs ADD COLUMN name TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN archived_at REAL;
    ALTER TABLE runs ADD COLUMN deleted_at REAL;
    ALTER TABLE metrics ADD COLUMN temperature_celsius REAL;
    ALTER TABLE metrics ADD COLUMN power_watts REAL
    """,
    # The plans that a run tries before it trains one of them to the end.
    "ALTER TABLE runs ADD COLUMN race TEXT",
)


_TABLES = frozenset({"runs", "metrics", "events", "answers"})


class Database:
    """One SQLite file in WAL mode, migrated to the newest format when opened; safe across processes and threads.

    What it knows of a run also stands in the run's folder. A damaged database is set aside with its bytes kept, and the
    new one is rebuilt from the folders; so is one that is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database of a runs folder.

        Raises:
            LorafitError: If the folder cannot be used, or its database is newer or that of another program.
        """
        self.rebuilt = ""
        """A sentence about runs that were rebuilt from their folders when this was opened; empty if none were."""
        self._folder, self._path = folder, folder / FILE
        try:
            private.make_folder(folder)
            private.make_file(self._path)
            private.tighten_files((*folder.glob(f"{FILE}*"), *folder.glob(f"{UPLOADS}/*")))
        except OSError as error:
            raise faults.told(error) from error
        with suppress(unusable.DamagedError):  # a new one is in its place by now
            self._migrate()
        with self.connection() as db:
            mirror.complete(db, folder)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for reading.

        Raises:
            StoreError: If the database cannot be used now.
            DamagedError: If it is damaged; it is then set aside, and the next connection finds a new one.
        """
        try:
            with unusable.told(self._path), self._opened() as db:
                yield db
        except unusable.DamagedError:
            self._set_aside()
            self._migrate()
            raise
        except unusable.MissingError:
            self._migrate()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that writes all or nothing, while no other process writes."""
        with self.connection() as db:
            changes = mirror.Changes(db)
            with _all_or_nothing(db):
                yield db
                changes.write(self._folder)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        finally:
            db.close()

    def _migrate(self) -> None:
        version = self._version()
        if version > len(MIGRATIONS):
            rule = f"has the format {version}, newer than this LoRAFit's {len(MIGRATIONS)}"
            raise RunError(str(self._path), rule, None, "Update LoRAFit")
        if version < len(MIGRATIONS):
            with self.connection() as db, _all_or_nothing(db):
                self._upgrade(db)

    def _version(self) -> int:
        """Return the version of the database, in WAL mode.

        SQLite does not wait for another process that switches to this mode or closes the file: it is locked at once.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with self.connection() as db:
                    _refuse_foreign(db, self._path)
                    db.execute("PRAGMA journal_mode = WAL")
                    return _version(db)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _upgrade(self, db: sqlite3.Connection) -> None:
        """Upgrade the database to the newest version, unless another process just did.

        Into a new one come the runs that the folders have records of, each at the version that wrote its record.
        """
        is_new = _version(db) == 0
        found = mirror.Found()
        while (version := _version(db)) < len(MIGRATIONS):
            for statement in MIGRATIONS[version].split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {version + 1}")
            if is_new:
                found += mirror.restore(db, self._folder, version + 1, newest=version + 1 == len(MIGRATIONS))
        mirror.note(db, found)
        self.rebuilt = found.sentence(self._folder)

    def _set_aside(self) -> None:
        """Rename a damaged database with what SQLite keeps beside it, once, whichever process notices first."""
        try:
            with interlock(self._folder / f"{FILE}.lock"):
                if not self._is_whole():
                    mark = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
                    for ending in ("-wal", "-shm", ""):
                        part = self._path.with_name(f"{FILE}{ending}")
                        if part.exists():
                            part.rename(self._path.with_name(f"{mirror.ASIDE}{mark}.sqlite{ending}"))
                    private.make_file(self._path)
        except OSError as error:
            raise faults.told(error) from error

    def _is_whole(self) -> bool:
        try:
            with self._opened() as db:
                return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
        except sqlite3.DatabaseError:
            return False


@contextmanager
def _all_or_nothing(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back when the disk is full
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """Refuse the database of another program before anything in it is changed.

    Raises:
        RunError: If it has tables, but not those of the runs.
    """
    tables = {row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and (not tables >= _TABLES or _version(db) == 0):
        way_out = "Move it away, or set LORAFIT_RUNS to another folder"
        raise RunError(str(path), "is the database of another program", None, way_out)
