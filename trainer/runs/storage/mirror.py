"""What the database knows of a run, a second time in the run's folder, so that a lost database can be rebuilt.

``record.json`` holds the run and its answers and is replaced as a whole; ``metrics.jsonl`` and ``events.jsonl`` grow
line by line, each after a line break, so that a line torn by a crash or a full disk spoils no other.
"""

import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import FinetunePlan, LorafitError, RunError
from trainer.data.source import DataSource
from trainer.runs.contract import ACTIVE, State
from trainer.runs.storage import private
from trainer.runs.storage.rows import insert

RECORD, METRICS, EVENTS = "record.json", "metrics.jsonl", "events.jsonl"
ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
"""The form of a run's id, which is also the name of its folder."""

ASIDE = "damaged-"
"""How the name of a database begins that was set aside."""

_REBUILT = "Rebuilt from this run's folder, as the database was damaged or missing."

_WATCHED = (
    "token, parent_id, state, phase, device, model_path, plan, data, estimate, measured, details, attempt, "
    "total_steps, stop_requested, error, error_kind, created_at, queued_at, started_at, finished_at, "
    "name, note, archived_at, race"
)
"""Columns whose change is written to the folder; a heartbeat every two seconds is not."""
_JSON = ("plan", "data", "estimate", "measured", "details", "race")
_OVER = frozenset(State) - ACTIVE - {State.QUEUED}

_TRIGGERS = (
    "AFTER INSERT ON main.runs BEGIN SELECT mirrored('run', NEW.id, 0); END",
    f"AFTER UPDATE OF {_WATCHED} ON main.runs BEGIN SELECT mirrored('run', NEW.id, 0); END",
    "AFTER INSERT ON main.answers BEGIN SELECT mirrored('run', NEW.run_id, 0); END",
    "AFTER INSERT ON main.metrics BEGIN SELECT mirrored('metrics', NEW.run_id, NEW.step); END",
    "AFTER UPDATE ON main.metrics BEGIN SELECT mirrored('metrics', NEW.run_id, NEW.step); END",
    "AFTER INSERT ON main.events BEGIN SELECT mirrored('events', NEW.run_id, NEW.id); END",
)


def new_id(now: float) -> str:
    """Return the id of a run that is made now, in seconds since 1970."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(2)}"


class Changes:
    """What one transaction changes, noticed by triggers of its connection, so that no writer can forget to tell."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seen: dict[tuple[str, str, int], None] = {}
        db.create_function("mirrored", 3, self._note)
        for number, trigger in enumerate(_TRIGGERS):
            db.execute(f"CREATE TEMP TRIGGER mirrored_{number} {trigger}")

    def _note(self, table: str, run_id: str, key: int) -> None:
        self._seen[table, run_id, key] = None

    def write(self, root: Path) -> None:
        """Write the changes to the folders of the runs; called before the commit, so that the order is the same.

        A folder that cannot be written does not hinder the database: what is missing is written when the run is over.
        """
        for run_id in dict.fromkeys(run_id for _, run_id, _ in self._seen):
            with suppress(OSError):
                self._write(root / run_id, run_id)

    def _write(self, folder: Path, run_id: str) -> None:
        row = self._db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row["deleted_at"] is not None:
            return  # its folder is on the way to the trash
        if row["state"] in _OVER:
            write_all(self._db, folder, run_id)
            return
        folder.mkdir(exist_ok=True, mode=private.FOLDER_MODE)
        keys = {table: [key for kind, of, key in self._seen if (kind, of) == (table, run_id)] for table in _LINES}
        for table, found in keys.items():
            _append(folder / _LINES[table][0], _lines(self._db, table, run_id, found))
        if ("run", run_id, 0) in self._seen:
            _replace(folder / RECORD, _record(self._db, row))


def write_all(db: sqlite3.Connection, folder: Path, run_id: str) -> None:
    """Write everything that the database knows of a run, in place of what its folder has.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(exist_ok=True, mode=private.FOLDER_MODE)
    for table, (file, _) in _LINES.items():
        _replace(folder / file, "".join(_lines(db, table, run_id)))
    row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    _replace(folder / RECORD, _record(db, row))


def complete(db: sqlite3.Connection, root: Path) -> None:
    """Write the records that are missing, as those of runs from before there were any."""
    for row in db.execute("SELECT id FROM runs"):
        folder = root / row["id"]
        if folder.is_dir() and not (folder / RECORD).exists():
            with suppress(OSError):
                write_all(db, folder, row["id"])


@dataclass(frozen=True, slots=True)
class Found:
    """The names of the folders of which a new database was made."""

    back: frozenset[str] = frozenset()
    """Those whose run was brought in."""
    unreadable: frozenset[str] = frozenset()
    """Those whose record cannot be used."""

    def __add__(self, other: "Found") -> "Found":
        return Found(self.back | other.back, self.unreadable | other.unreadable)

    def sentence(self, root: Path) -> str:
        """Return what to tell about it; empty if no folder had a record."""
        if not self.back and not self.unreadable:
            return ""
        aside = max((path.name for path in root.glob(f"{ASIDE}*.sqlite")), default=None)
        why = f"was damaged and is kept as {aside}" if aside else "was missing"
        told = f"The database of the runs {why}; {len(self.back):,} runs were rebuilt from their folders"
        return f"{told}, {len(self.unreadable):,} could not be read." if self.unreadable else f"{told}."


def restore(db: sqlite3.Connection, root: Path, version: int, *, newest: bool) -> Found:
    """Bring the runs of which the folders have records of one version into a new database.

    Args:
        db: The database, in that version.
        root: The runs folder.
        version: The version of the database that wrote the records.
        newest: Whether it is the newest one, so that plans and data can be checked.
    """
    back, unreadable = set(), set()
    for folder in sorted(path for path in root.iterdir() if ID.fullmatch(path.name) and (path / RECORD).is_file()):
        db.execute("SAVEPOINT one")
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record["format"] == version:
                _restore(db, folder, record, newest=newest)
                back.add(folder.name)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            LorafitError,
            sqlite3.Error,
        ):
            db.execute("ROLLBACK TO one")
            unreadable.add(folder.name)
        finally:
            db.execute("RELEASE one")
    return Found(frozenset(back), frozenset(unreadable))


def adopt(db: sqlite3.Connection, folder: Path, file: Path) -> None:
    """Bring the run of a folder that was sent here into the database.

    Raises:
        RunError: If its record cannot be used.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        _restore(db, folder, record, newest=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, sqlite3.IntegrityError) as error:
        raise RunError(f"run {folder.name}", "was sent with a record that cannot be read") from error


def note(db: sqlite3.Connection, found: Found) -> None:
    """Record with each run that it was rebuilt, once all events of all runs have their numbers back."""
    for run_id in sorted(found.back):
        insert(db, "events", {"run_id": run_id, "at": time.time(), "kind": "warning", "text": _REBUILT})


def _restore(db: sqlite3.Connection, folder: Path, record: Mapping[str, Any], *, newest: bool) -> None:
    run = dict(record["run"])
    if newest:
        FinetunePlan.from_dict(run["plan"])
        DataSource(**run["data"])
    if run["id"] != folder.name or State(run["state"]) is None:
        raise ValueError(run["id"])
    if run["state"] in ACTIVE:
        # Its worker may live: it says so within seconds, or the run counts as lost.
        run |= {"heartbeat_at": time.time(), "beat_at": time.monotonic()}
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in run.items()}
    insert(db, "runs", {name: value for name, value in values.items() if name in _columns(db, "runs")})
    for table, (file, order) in _LINES.items():
        known = _columns(db, table)
        last = {line[order]: line for line in readable_lines(folder / file)}
        for line in last.values():
            kept = {name: value for name, value in line.items() if name in known}
            insert(db, table, {**kept, "run_id": folder.name})
    for position, answer in enumerate(record["answers"]):
        insert(db, "answers", {**answer, "run_id": folder.name, "position": position})
    db.execute(
        "UPDATE runs SET step = max(step, (SELECT coalesce(max(step), 0) FROM metrics WHERE run_id = id)) WHERE id = ?",
        (folder.name,),
    )


def _columns(db: sqlite3.Connection, table: str) -> frozenset[str]:
    return frozenset(row[1] for row in db.execute(f"PRAGMA table_info({table})"))


def _record(db: sqlite3.Connection, row: sqlite3.Row) -> str:
    run = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row iterates over its values
    run |= {name: json.loads(run[name]) for name in _JSON if run[name] is not None}
    query = "SELECT prompt, base, tuned FROM answers WHERE run_id = ? ORDER BY position"
    answers = [dict(answer) for answer in db.execute(query, (row["id"],))]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    return json.dumps({"format": version, "run": run, "answers": answers}, indent=1)


_LINES = {"metrics": (METRICS, "step"), "events": (EVENTS, "id")}
"""Tables that are written line by line: the file, and the column that orders them."""


def _lines(db: sqlite3.Connection, table: str, run_id: str, keys: Iterable[int] | None = None) -> Iterator[str]:
    """Yield rows of a table as lines of JSON: those with the given keys, or all of the run."""
    order = _LINES[table][1]
    query = f"SELECT * FROM {table} WHERE run_id = ?"  # noqa: S608 - own names
    if keys is None:
        rows = db.execute(f"{query} ORDER BY {order}", (run_id,)).fetchall()
    else:
        rows = [row for key in keys for row in db.execute(f"{query} AND {order} = ?", (run_id, key))]
    for row in rows:
        values = {name: row[name] for name in row.keys() if name != "run_id"}  # noqa: SIM118 - as above
        yield "\n" + json.dumps(values)


def readable_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file that are whole."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def _append(path: Path, lines: Iterable[str]) -> None:
    text = "".join(lines)
    if text:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
