"""Runs on machines of a scheduler that share a folder with this one: the run's folder is there without being sent.

Of such a machine only files are read. SQLite's write-ahead log needs one machine, https://www.sqlite.org/wal.html: so
each run has a store of its own there, which only its job opens.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from specs import RunError
from trainer import files
from trainer.away import parcel, telling
from trainer.away.executor import KEPT_LOG, NOT_FETCHED, ORDERS, PARCEL, STOP, Ground, Told, UnreachableError
from trainer.runs.contract import ACTIVE, TAKEN, WISH, Run, State
from trainer.runs.places import Where
from trainer.runs.storage import private
from trainer.runs.storage.mirror import RECORD

_TICK_SECONDS = 1.0
_JOB = "job.json"
"""The scheduler's number of the run's job, and for which wish it was submitted."""


class Scheduler(Protocol):
    """What is asked of a scheduler. Each may raise ``UnreachableError``."""

    settling_seconds: float
    """How long after its job's end the files of a run may still change, also as a shared disk shows them late."""

    def check(self) -> str:
        """Return that it can be reached, as a sentence, or raise a ``RunError``."""

    def submit(self, command: Sequence[str], folder: Path, run: Run) -> str:
        """Submit a command for a run, with a folder for what the scheduler notes of it; return the job's number."""

    def ended(self, job: str, folder: Path) -> str:
        """Return the scheduler's word for how a job ended; empty while it waits, works, or is not known."""

    def cancel(self, job: str, folder: Path) -> None:
        """Take back a job that waits."""


class SharedFolder:
    """The five verbs through a shared folder; a scheduler starts the keeper."""

    def __init__(self, place: Where, scheduler: Scheduler) -> None:
        self._place, self._scheduler = place, scheduler

    def check(self) -> Ground:
        """Return that the scheduler can be reached and the folder be written; it alone knows its cards."""
        said = self._scheduler.check()
        try:
            private.make_folder(Path(self._place.folder))
        except OSError as error:
            rule = f"has a folder that cannot be made: {error.strerror}"
            raise RunError(self._place.short, rule, self._place.folder) from error
        return Ground(f"{self._place.short}: can be used, {said}.", ("cuda:0", "cpu"))

    def send(self, run: Run, folder: Path, say: Callable[[str], None]) -> bool:
        """Write the run's folder into the shared one; LoRAFit, data and model are read where they lie."""
        home = self._home(run)
        private.make_folder(home.parent)
        home.mkdir(exist_ok=True, mode=private.FOLDER_MODE)
        if new := not (home / PARCEL).exists():
            say(f"The run's folder there is {home}.")
            for path, name in parcel.made(folder):
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, home / name)
            run.data.require_unchanged(run.details.get("data_sha256"))
            _replace(home / PARCEL, parcel.record(run, folder, data=run.data.path, model=run.place.model_path))
        _replace(home / ORDERS, parcel.orders(run))
        return new

    def start(self, run: Run) -> None:
        """Submit the keeper, unless it was for the same wish already."""
        home, job = self._home(run), self._job(run)
        if job.get(WISH) == run.details[WISH]:
            return
        (home / STOP).unlink(missing_ok=True)
        keeper = ["trainer.away.there", "job", str(home.parent), run.id]
        number = self._scheduler.submit([sys.executable, "-u", "-m", *keeper], home / "job", run)
        _replace(home / _JOB, json.dumps({"job": number, WISH: run.details[WISH]}).encode())

    def follow(self, run: Run, position: Mapping[str, Any]) -> Iterator[Told]:
        """Yield what the files of the run's folder tell; the scheduler tells of a job that ended without a word."""
        home, quiet_since = self._home(run), time.monotonic()
        state: Mapping[str, Any] = {}
        while True:
            found, position = telling.changes(home, position)
            state = next((one["run"] for one in found if "run" in one), state) or _known(home)
            taken = state.get("details", {}).get(TAKEN) == run.details[WISH]
            over = taken and state["state"] not in {*ACTIVE, State.QUEUED}
            ended, lost = ("", None) if over else self._ended(run, home)
            if found or not ended:
                quiet_since = time.monotonic()
            late = time.monotonic() - quiet_since > self._scheduler.settling_seconds
            why = f"its job ended as {ended}. {telling.last_line(home / KEPT_LOG)}" if late else ""
            yield Told(changes=found if taken else [], position=position, over=over, lost=lost, gone=why)
            time.sleep(_TICK_SECONDS)

    def stop(self, run: Run) -> None:
        """Leave the request where the keeper looks, and take back a job that still waits."""
        home = self._home(run)
        (home / STOP).touch()
        if _known(home).get("details", {}).get(TAKEN) != run.details[WISH]:
            self._scheduler.cancel(str(self._job(run).get("job", "")), home / "job")

    def fetch(self, run: Run, folder: Path) -> None:
        """Copy the files of the run's folder; each replaces what is here only once it is whole."""
        with files.scratch_folder(folder) as scratch:
            for path in self._home(run).iterdir():
                if path.name in NOT_FETCHED or path.name in {_JOB, "job"} or path.name.startswith("."):
                    continue
                if path.is_dir():
                    shutil.copytree(path, scratch / path.name)
                else:
                    shutil.copyfile(path, scratch / path.name)
            files.settle(scratch, folder)

    def _ended(self, run: Run, home: Path) -> tuple[str, UnreachableError | None]:
        """Return the scheduler's word for how the run's job ended, or why it cannot be asked."""
        try:
            return self._scheduler.ended(str(self._job(run).get("job", "")), home / "job"), None
        except UnreachableError as error:
            return "", error

    def _home(self, run: Run) -> Path:
        return Path(self._place.folder) / f"job-{run.id}" / run.id

    def _job(self, run: Run) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = json.loads((self._home(run) / _JOB).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def _known(home: Path) -> Mapping[str, Any]:
    """Return the record of a run as its folder has it; empty if there is none yet."""
    try:
        found: Mapping[str, Any] = json.loads((home / RECORD).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, LookupError):
        return {}
    return found


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(content)
    scratch.replace(path)
