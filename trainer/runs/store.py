"""The run store: what pages, command line and workers share about runs, and one folder per run."""

import dataclasses
import functools
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from specs import FinetunePlan, RunError
from specs.taken import size_bytes
from trainer import files
from trainer.data.source import DataSource
from trainer.failure import AttemptOverError
from trainer.runs.contract import (
    ACTIVE,
    LOST_SECONDS,
    RESULT,
    RESUMABLE,
    Answer,
    Event,
    LossCurve,
    Metric,
    Phase,
    Place,
    Run,
    State,
    cards,
    spread,
)
from trainer.runs.places import AT
from trainer.runs.race import Race
from trainer.runs.storage import afar, mirror, ownership, private, records, shelf, trials
from trainer.runs.storage.database import Database
from trainer.runs.storage.rows import insert, update

LOG = "worker.log"
"""What a run's workers print, in its folder."""

_UNCERTAIN_SECONDS = 1.0
"""How far the clock of two processors may differ."""


class Store:
    """Everything known about runs; safe to use from several processes and threads at once.

    A worker gives its attempt with each write, and is refused with ``AttemptOverError`` once that is over.
    """

    def __init__(self, runs_folder: Path) -> None:
        self.folder = Path(os.path.realpath(runs_folder))
        self._database = Database(self.folder)

    @property
    def rebuilt(self) -> str:
        """A sentence about runs that were rebuilt from their folders when the store was opened; empty if none were."""
        return self._database.rebuilt

    def create(
        self,
        plan: FinetunePlan,
        data: DataSource,
        estimate: Mapping[str, Any] | None = None,
        *,
        place: Place | None = None,
        race: Race | None = None,
    ) -> Run:
        """Queue a run of a plan on data, or return the run already created with the same token."""
        values = _values(plan, data, estimate, place or Place())
        if race is not None:
            values["race"] = json.dumps(race.to_dict())
        return self._created(values, "Queued.")

    def create_finished(
        self, plan: FinetunePlan, data: DataSource, *, place: Place, name: str, details: Mapping[str, Any], result: Path
    ) -> Run:
        """Add a run that no worker trains, such as a combination of adapters, or return the one with the same token.

        Args:
            plan: What describes the result.
            data: What it is evaluated on.
            place: Where its model is loaded.
            name: What it is called.
            details: As a worker records them.
            result: The folder of its result, in the runs folder; it is moved if the run is new.
        """
        over = {"state": State.FINISHED, "phase": Phase.DONE, "finished_at": time.time()}
        values = {**_values(plan, data, None, place), **over, "name": name, "details": json.dumps(dict(details))}
        return self._created(values, "Combined.", result)

    def _created(self, values: Mapping[str, Any], event: str, result: Path | None = None) -> Run:
        """Insert a run, with its result if it has one, unless there is one with its token; return the run."""
        run_id, token = values["id"], values["token"]
        with self._database.transaction() as db:
            made = db.execute("SELECT id FROM runs WHERE token = ?", (token,)).fetchone()
            if made is None:
                insert(db, "runs", values)
                records.note(db, run_id, "state", event)
                if result is not None:
                    result.rename(self.run_folder(run_id) / RESULT)
        return self.run(run_id if made is None else made["id"])

    def adopt(self, run_id: str, record: Path) -> Run:
        """Take a run whose folder was sent here with a record into the store, and return it.

        Raises:
            RunError: If its record cannot be used.
        """
        with self._database.transaction() as db:
            mirror.adopt(db, self.run_folder(run_id), record)
        return self.run(run_id)

    def put_told(self, run_id: str, told: Sequence[Mapping[str, Any]], *, ahead: float, attempt: int) -> None:
        """Put what another place told of a run into the store; ``storage.afar`` says what that is."""
        with self._writing(run_id, attempt) as db:
            afar.put(db, run_id, told, ahead=ahead)

    def claim_forsaken(self) -> tuple[Run, ...]:
        """Hand the runs that train elsewhere and that nobody follows any more to the caller, who must follow them."""
        self._mark_lost()
        with self._database.transaction() as db:
            found = ownership.forsaken(db)
            for row in found:
                if row["state"] == State.LOST:
                    ownership.move(db, row["id"], State.PREPARING)
                db.execute("UPDATE runs SET attempt = attempt + 1 WHERE id = ?", (row["id"],))
                update(db, row["id"], error=None, error_kind=None, process=None, **ownership.beat())
        return tuple(self.run(row["id"]) for row in found)

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises:
            RunError: If there is no run with this id.
        """
        found = self.find(run_id)
        if found is None:
            raise ownership.unknown(run_id)
        return found

    def find(self, run_id: str) -> Run | None:
        """Return one run, or None if there is none with this id."""
        if not mirror.ID.fullmatch(run_id):
            return None
        self._mark_lost()
        with self._database.connection() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ? AND deleted_at IS NULL", (run_id,)).fetchone()
        return None if row is None else _run(row)

    def runs(self) -> tuple[Run, ...]:
        """Return all runs but the deleted ones, the newest first."""
        self._mark_lost()
        query = "SELECT * FROM runs WHERE deleted_at IS NULL ORDER BY created_at DESC, id DESC"
        with self._database.connection() as db:
            return tuple(_run(row) for row in db.execute(query))

    def deleted(self) -> tuple[Run, ...]:
        """Return the runs in the trash, the one that was deleted last first."""
        query = "SELECT * FROM runs WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC, id DESC"
        with self._database.connection() as db:
            return tuple(_run(row) for row in db.execute(query))

    def describe(self, run_id: str, *, name: str | None = None, note: str | None = None) -> Run:
        """Name a run, or write a note to it; None leaves what there is, an empty text takes it away.

        Raises:
            RunError: If there is no such run, or the text cannot be kept.
        """
        with self._database.transaction() as db:
            shelf.describe(db, run_id, name=name, note=note)
        return self.run(run_id)

    def archive(self, run_id: str, *, archived: bool = True) -> Run:
        """Put a run into the archive, or take it out."""
        with self._database.transaction() as db:
            shelf.archive(db, run_id, archived=archived)
        return self.run(run_id)

    def delete(self, run_id: str) -> None:
        """Put a run that is over into the trash, where it stays for ``shelf.TRASH_DAYS``.

        Raises:
            RunError: If it is not over, or a silent worker may still write.
        """
        with self._database.transaction() as db:
            shelf.throw(db, self.folder, run_id)

    def take_back(self, run_id: str) -> Run:
        """Bring a deleted run back.

        Raises:
            RunError: If it is not in the trash.
        """
        with self._database.transaction() as db:
            shelf.take_back(db, self.folder, run_id)
        return self.run(run_id)

    def sweep(self, *, days: float | None = None) -> None:
        """Remove for good what has been in the trash for so many days, by default for ``shelf.TRASH_DAYS``."""
        if not (self.folder / shelf.TRASH).is_dir():
            return
        with self._database.transaction() as db:
            gone = shelf.expired(db, self.folder, days)
        for folder in gone:
            shelf.remove(folder)

    def size_bytes(self, run_id: str) -> int:
        """Return what a run's files take on the disk."""
        return size_bytes(self.run_folder(run_id))

    def remove_folders(self, run_id: str, folders: Iterable[Path]) -> None:
        """Remove folders of a run that is over, such as its checkpoints.

        Raises:
            RunError: If it is not over, or a silent worker may still write.
        """
        with self._database.transaction() as db:
            shelf.require_over(db, run_id, "tidied")
            # Renamed while nobody can resume the run: what takes long comes after.
            gone = [files.put_out(folder) for folder in folders if folder.is_dir()]
        for folder in gone:
            shelf.remove(folder)

    def named_data(self) -> frozenset[str]:
        """Return the real paths of the data that runs name, the deleted ones too."""
        with self._database.connection() as db:
            return shelf.named(db)

    def remove_data(self, path: Path) -> bool:
        """Remove a file of data unless a run names it; return whether it is gone.

        Raises:
            OSError: If it cannot be removed.
        """
        with self._database.transaction() as db:
            if os.path.realpath(path) in shelf.named(db):
                return False
            path.unlink(missing_ok=True)
            return True

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run's files, created on first use.

        Raises:
            RunError: If the text does not have the form of an id.
        """
        if not mirror.ID.fullmatch(run_id):
            raise ownership.unknown(run_id)
        folder = self.folder / run_id
        folder.mkdir(exist_ok=True, mode=private.FOLDER_MODE)
        return folder

    def metrics(self, run_id: str, *, after_step: int = 0) -> tuple[Metric, ...]:
        """Return a run's metrics by step, optionally only those after a given step."""
        with self._database.connection() as db:
            return records.metrics(db, run_id, after_step=after_step)

    def add_metric(self, run_id: str, metric: Metric, *, attempt: int | None = None) -> None:
        """Store a step's metrics; a value of None keeps what is already stored for the step."""
        with self._writing(run_id, attempt) as db:
            records.add_metric(db, run_id, metric)

    def loss_curves(self, *, points: int = 40) -> dict[str, LossCurve]:
        """Return every run's training loss in about ``points`` points; runs without a loss are left out."""
        with self._database.connection() as db:
            return records.loss_curves(db, points)

    def events(self, run_id: str, *, after_id: int = 0) -> tuple[Event, ...]:
        """Return the events of a run, in order."""
        with self._database.connection() as db:
            return records.events(db, run_id, after_id=after_id)

    def add_event(self, run_id: str, kind: str, text: str, *, attempt: int | None = None) -> None:
        """Record an event of a run."""
        with self._writing(run_id, attempt) as db:
            records.note(db, run_id, kind, text)

    def worked_seconds(self, run_id: str) -> float:
        """Return for how long workers trained, saved and answered, without the time in which none did."""
        with self._database.connection() as db:
            return records.worked_seconds(db, run_id, time.time())

    def answers(self, run_id: str) -> tuple[Answer, ...]:
        """Return the prompts with the answers of the base and the tuned model."""
        with self._database.connection() as db:
            return records.answers(db, run_id)

    def set_answers(self, run_id: str, answers: Sequence[Answer], *, attempt: int | None = None) -> None:
        """Replace the answers of a run."""
        with self._writing(run_id, attempt) as db:
            records.set_answers(db, run_id, answers)

    def request_stop(self, run_id: str) -> Run:
        """Ask a run to save and stop; one that is still waiting stops at once, one that is over stays as it is."""
        with self._database.transaction() as db:
            state = ownership.state_of(db, run_id)
            if state is State.QUEUED:
                ownership.move(db, run_id, State.STOPPED)
            elif state in ACTIVE:
                # While prompts are answered, everything is saved: a stop then means that nobody wants to wait.
                wanted = "UPDATE runs SET stop_requested = CASE phase WHEN ? THEN 2 ELSE 1 END WHERE id = ?"
                db.execute(wanted, (Phase.EVALUATING, run_id))
                if state is not State.STOPPING:
                    ownership.move(db, run_id, State.STOPPING)
        return self.run(run_id)

    def request_resume(
        self,
        run_id: str,
        *,
        plan: FinetunePlan | None = None,
        device: str = "",
        estimate: Mapping[str, Any] | None = None,
    ) -> Run:
        """Queue a stopped, failed or lost run again; with a longer plan, also a finished one.

        Args:
            run_id: The run.
            plan: What it goes on with; None leaves its plan.
            device: Where that trains; empty leaves its place and its estimate.
            estimate: What is predicted of the plan there.

        Raises:
            RunError: If the run is not over, or has finished and no longer plan is given.
        """
        with self._database.transaction() as db:
            state = ownership.state_of(db, run_id)
            if state not in RESUMABLE and not (state is State.FINISHED and plan is not None):
                way_out = "Train more steps to extend it" if state is State.FINISHED else "Wait until it is over"
                raise RunError(f"run {run_id}", "can be resumed only if stopped, failed or lost", str(state), way_out)
            ownership.move(db, run_id, State.QUEUED)
            update(db, run_id, queued_at=time.time(), stop_requested=0, error=None, error_kind=None, phase="waiting")
            if plan is not None:
                update(db, run_id, plan=json.dumps(plan.to_dict()))
            if device:
                told = None if estimate is None else json.dumps(dict(estimate))
                update(db, run_id, device=device, estimate=told)
        return self.run(run_id)

    def extend(self, run_id: str, steps: int) -> Run:
        """Queue a run that is over again, for more steps.

        The learning rate schedule is stretched over all steps.

        Raises:
            RunError: If the run is not over, or the number of steps is not positive.
        """
        if steps < 1:
            raise RunError("steps", "must be at least 1", steps)
        run = self.run(run_id)
        if run.races:
            raise RunError(f"run {run_id}", "has not decided its race yet", str(run.state), "Resume it first")
        return self.request_resume(run_id, plan=dataclasses.replace(run.plan, max_steps=run.step + steps))

    def waiting_devices(self) -> tuple[str, ...]:
        """Return the devices that queued runs are waiting for."""
        with self._database.connection() as db:
            rows = db.execute("SELECT DISTINCT device FROM runs WHERE state = ?", (State.QUEUED,))
            return tuple(row["device"] for row in rows)

    def holder(self, device: str) -> Run | None:
        """Return the run whose worker is using a device, or one of its cards."""
        self._mark_lost()
        active = ", ".join("?" for _ in ACTIVE)
        with self._database.connection() as db:
            rows = db.execute(f"SELECT * FROM runs WHERE state IN ({active})", (*ACTIVE,))  # noqa: S608 - placeholders
            return next((_run(row) for row in rows if cards(row["device"]) & cards(device)), None)

    def claim_next(self, device: str) -> Run | None:
        """Hand the oldest queued run of a free device to the caller, who must start its worker; None if none waits."""
        self._mark_lost()
        with self._database.transaction() as db:
            row = ownership.next_of(db, device)
            if row is None:
                return None
            ownership.move(db, row["id"], State.PREPARING)
            db.execute("UPDATE runs SET attempt = attempt + 1 WHERE id = ?", (row["id"],))
            # A follower ends itself once its attempt is over; the one before is not to be taken for this one's.
            gone = {"process": None} if AT in row["device"] else {}
            update(db, row["id"], **gone, **ownership.beat())
        return self.run(row["id"])

    def beat(self, run_id: str, attempt: int) -> bool:
        """Record a heartbeat; return whether the run still belongs to this worker."""
        try:
            with self._writing(run_id, attempt) as db:
                update(db, run_id, **ownership.beat())
        except AttemptOverError:
            return False
        return True

    def started(self, run_id: str, attempt: int, process: str | None, oom_kills: int) -> None:
        """Record which process works on a run, and how many were killed for memory here before."""
        with self._writing(run_id, attempt) as db:
            update(db, run_id, process=process, oom_kills=oom_kills, **ownership.beat())

    def enter(self, run_id: str, state: State, *, attempt: int | None = None, **fields: Any) -> None:
        """Move a run to a state and set its fields in the same transaction; an error is also an event.

        Raises:
            RunError: If ``TRANSITIONS`` does not allow the change.
        """
        with self._writing(run_id, attempt) as db:
            ownership.move(db, run_id, state)
            update(db, run_id, **fields)
            if fields.get("error"):
                records.note(db, run_id, "error", fields["error"])

    def bury(self, run: Run, status: int | None) -> None:
        """Record the death of a worker, unless it said itself how its run ended.

        Args:
            run: The run as it was when its worker was started.
            status: The worker's exit status, negative for a signal; None if unknown.
        """
        with self._database.transaction() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (run.id,)).fetchone()
            if row is not None and row["attempt"] == run.attempt and row["state"] in ACTIVE:
                ownership.bury(db, row, status, self.run_folder(run.id) / LOG)

    def start_training(self, run_id: str, *, attempt: int | None = None) -> bool:
        """Move a prepared run to running; if it was asked to stop in the meantime, leave it and return False."""
        with self._writing(run_id, attempt) as db:
            state = ownership.state_of(db, run_id)
            if state in {State.STOPPING, State.RUNNING}:
                return state is State.RUNNING  # a race began before the training of its winner
            ownership.move(db, run_id, State.RUNNING)
            db.execute("UPDATE runs SET started_at = coalesce(started_at, ?) WHERE id = ?", (time.time(), run_id))
            return True

    def set_phase(self, run_id: str, phase: Phase, *, attempt: int | None = None) -> None:
        """Record what the worker is doing now."""
        with self._writing(run_id, attempt) as db:
            update(db, run_id, phase=phase)
            records.note(db, run_id, "phase", f"{phase.words.capitalize()}.")

    def set_total_steps(self, run_id: str, total_steps: int, *, attempt: int | None = None) -> None:
        """Record the run's total number of optimizer steps."""
        with self._writing(run_id, attempt) as db:
            update(db, run_id, total_steps=total_steps)

    def add_measured(self, run_id: str, *, attempt: int | None = None, **values: Any) -> None:
        """Merge what the worker measured into ``Run.measured``."""
        with self._writing(run_id, attempt) as db:
            records.merge(db, run_id, "measured", values)

    def add_details(self, run_id: str, *, attempt: int | None = None, **values: Any) -> None:
        """Merge what the worker recorded into ``Run.details``."""
        with self._writing(run_id, attempt) as db:
            records.merge(db, run_id, "details", values)

    def set_race(self, run_id: str, race: Race, *, attempt: int | None = None) -> None:
        """Record what a race has found so far."""
        with self._writing(run_id, attempt) as db:
            trials.record(db, run_id, race)

    def decide_race(self, run_id: str, trial: int, *, attempt: int | None = None) -> None:
        """Make a run that of the trial that won its race: its plan, and the curve that it has so far."""
        points = trials.metrics(self.run_folder(run_id), trial)
        with self._writing(run_id, attempt) as db:
            trials.decide(db, run_id, trial, points)

    def keep_trial(self, run_id: str, trial: int, *, attempt: int | None = None) -> str:
        """Make a trial that did not win an archived run of its own, and return its id."""
        points = trials.metrics(self.run_folder(run_id), trial)
        with self._writing(run_id, attempt) as db:
            return trials.keep(db, run_id, trial, points)

    def trial_metrics(self, run_id: str, trial: int) -> tuple[Metric, ...]:
        """Return what a trial of an undecided race has measured so far, by step."""
        return trials.metrics(self.run_folder(run_id), trial)

    def stop_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the run to save and stop."""
        with self._database.connection() as db:
            row = db.execute("SELECT stop_requested FROM runs WHERE id = ?", (run_id,)).fetchone()
            return bool(row and row["stop_requested"])

    def hurry_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the run to stop while it was answering the prompts."""
        with self._database.connection() as db:
            row = db.execute("SELECT stop_requested FROM runs WHERE id = ?", (run_id,)).fetchone()
            return row is not None and row["stop_requested"] > 1

    def _mark_lost(self) -> None:
        """Mark runs as lost whose workers stopped sending heartbeats."""
        active = ", ".join("?" for _ in ACTIVE)
        # A heartbeat of the future is one from before the machine was started again.
        silent = f"SELECT * FROM runs WHERE state IN ({active}) AND (beat_at < ? OR beat_at > ?)"  # noqa: S608 - marks
        now = time.monotonic()
        found = (*ACTIVE, now - LOST_SECONDS, now + _UNCERTAIN_SECONDS)
        with self._database.connection() as db:
            if not db.execute(silent, found).fetchone():
                return
        with self._database.transaction() as db:
            for row in db.execute(silent, found).fetchall():
                ownership.bury(db, row, None, self.run_folder(row["id"]) / LOG)

    @contextmanager
    def _writing(self, run_id: str, attempt: int | None) -> Iterator[sqlite3.Connection]:
        """Open a transaction that changes a run, on behalf of one attempt or of nobody in particular.

        Raises:
            AttemptOverError: If the attempt is over.
        """
        with self._database.transaction() as db:
            if attempt is not None and not ownership.owns(db, run_id, attempt):
                raise AttemptOverError(run_id)
            yield db


def _values(plan: FinetunePlan, data: DataSource, estimate: Mapping[str, Any] | None, where: Place) -> dict[str, Any]:
    """Return a new run as it is inserted, with an id of its own."""
    now = time.time()
    return {
        "id": mirror.new_id(now),
        "token": where.token,
        "parent_id": where.parent_id,
        "state": State.QUEUED,
        "phase": Phase.WAITING,
        "device": spread(where.device, plan.num_gpus),
        "model_path": where.model_path,
        "plan": json.dumps(plan.to_dict()),
        "data": json.dumps(dataclasses.asdict(data)),
        "estimate": None if estimate is None else json.dumps(dict(estimate)),
        "created_at": now,
        "queued_at": now,
    }


@functools.lru_cache(maxsize=4096)
def _plan(text: str) -> FinetunePlan:
    """Read a stored plan, cached, since pages read the same ones every second."""
    return FinetunePlan.from_dict(json.loads(text))


def _run(row: sqlite3.Row) -> Run:
    data = json.loads(row["data"])
    plain = ("id", "attempt", "step", "total_steps", "error", "error_kind", "process", "oom_kills")
    told = ("name", "note", "archived_at", "deleted_at")
    times = ("created_at", "started_at", "finished_at", "heartbeat_at")
    return Run(
        state=State(row["state"]),
        phase=Phase(row["phase"]),
        plan=_plan(row["plan"]),
        data=DataSource(**{**data, "prompts": tuple(data["prompts"])}),
        place=Place(**{name: row[name] for name in ("device", "model_path", "token", "parent_id")}),
        estimate=None if row["estimate"] is None else json.loads(row["estimate"]),
        measured=json.loads(row["measured"]),
        details=json.loads(row["details"]),
        stop_requested=bool(row["stop_requested"]),
        race=None if row["race"] is None else Race.from_dict(json.loads(row["race"])),
        **{name: row[name] for name in (*plain, *times, *told)},
    )
