"""What every part of a worker needs: the run, where to write, and whether to stop."""

import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from specs import FinetunePlan
from specs.errors import ended
from trainer.runs.contract import RENEWAL_SECONDS, Answer, Metric, Phase, Run, State
from trainer.runs.race import Race
from trainer.runs.store import Store

_T = TypeVar("_T")

_AGAIN_SECONDS = 1.0
"""How often to try again while the store cannot be written."""


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part in a run. Of several processes, only the one with rank 0 writes to the store.

    Every write carries the attempt, and raises ``AttemptOverError`` once that is over. While the store cannot be
    written, as on a full disk, the work waits.
    """

    run: Run
    store: Store
    stop: Event
    """Set when the run is to save and stop."""
    hurry: Event = field(default_factory=Event)
    """Set when the answers are no longer wanted: the machine shuts down, or stop was requested again."""
    rank: int = 0
    """The number of this process among all processes of the run."""
    local_rank: int = 0
    """Its number on this machine, and the number of its card among those visible to it."""

    @property
    def plan(self) -> FinetunePlan:
        """The plan of the run."""
        return self.run.plan

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.store.run_folder(self.run.id)

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's records and files."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """The torch device; the launcher shows the worker only its own cards."""
        kind = self.run.place.here.partition(":")[0]
        return f"{kind}:{self.local_rank}" if kind in {"cuda", "xpu"} else kind

    def stop_wanted(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return self.stop.is_set() or _patiently(lambda: self.store.stop_requested(self.run.id))

    def require_ours(self) -> None:
        """Refuse to write files into the run's folder for an attempt that is over.

        Raises:
            AttemptOverError: If it is.
        """
        self._write(self.store.add_details)

    def begin(self) -> bool:
        """Move the run to running; return whether nobody asked it to stop in the meantime."""
        return not self.leads or _patiently(lambda: self.store.start_training(self.run.id, attempt=self.run.attempt))

    def end(self, state: State, **fields: Any) -> None:
        """Leave the run in the state in which it ended."""
        self._write(self.store.enter, state, phase=Phase.DONE, finished_at=time.time(), **fields)

    def enter(self, phase: Phase) -> None:
        """Record what the run is doing now."""
        self._write(self.store.set_phase, phase)

    def event(self, kind: str, text: str) -> None:
        """Record an event."""
        self._write(self.store.add_event, kind, text)

    def details(self, **values: Any) -> None:
        """Record details of the run."""
        self._write(self.store.add_details, **values)

    def measured(self, **values: Any) -> None:
        """Record measurements."""
        self._write(self.store.add_measured, **values)

    def metric(self, metric: Metric) -> None:
        """Record the metrics of a step."""
        self._write(self.store.add_metric, metric)

    def total_steps(self, total_steps: int) -> None:
        """Record how many steps the run has."""
        self._write(self.store.set_total_steps, total_steps)

    def race(self, race: Race) -> None:
        """Record what the run's race has found so far."""
        self._write(self.store.set_race, race)

    def decide_race(self, trial: int) -> Run:
        """Make the run that of the trial that won its race, and return it."""
        self._write(self.store.decide_race, trial)
        return _patiently(lambda: self.store.run(self.run.id))

    def keep_trial(self, trial: int) -> Path:
        """Make a trial that did not win a run of its own, and return that one's folder."""
        kept = _patiently(lambda: self.store.keep_trial(self.run.id, trial, attempt=self.run.attempt))
        return self.store.run_folder(kept)

    def answers(self, answers: Sequence[Answer]) -> None:
        """Record the answers to the prompts."""
        self._write(self.store.set_answers, answers)

    def _write(self, write: Callable[..., None], *values: Any, **fields: Any) -> None:
        if self.leads:
            _patiently(lambda: write(self.run.id, *values, attempt=self.run.attempt, **fields))


def _patiently(action: Callable[[], _T]) -> _T:
    """Return what an action on the store returns, tried again for ``RENEWAL_SECONDS`` while the store fails."""
    until = time.monotonic() + RENEWAL_SECONDS
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:  # locked, full, or not to be read or written now
            if time.monotonic() > until:
                raise
            sys.stderr.write(f"The run waits, as its store cannot be used: {ended(str(error))}\n")
            time.sleep(_AGAIN_SECONDS)
