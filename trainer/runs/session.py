"""What every part of a worker needs: the run, where to write, and whether to stop."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from specs import FinetunePlan
from trainer.runs.contract import Metric, Phase, Run
from trainer.runs.store import Store


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part in a run. Of several processes, only the one with rank 0 writes to the store."""

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
        kind = self.run.place.device.partition(":")[0]
        return f"{kind}:{self.local_rank}" if kind in {"cuda", "xpu"} else kind

    def stop_wanted(self) -> bool:
        """Return whether somebody asked the run to stop."""
        return self.stop.is_set() or self.store.stop_requested(self.run.id)

    def enter(self, phase: Phase) -> None:
        """Record what the run is doing now."""
        if self.leads:
            self.store.set_phase(self.run.id, phase)

    def event(self, kind: str, text: str) -> None:
        """Record an event."""
        if self.leads:
            self.store.add_event(self.run.id, kind, text)

    def details(self, **values: Any) -> None:
        """Record details of the run."""
        if self.leads:
            self.store.add_details(self.run.id, **values)

    def measured(self, **values: Any) -> None:
        """Record measurements."""
        if self.leads:
            self.store.add_measured(self.run.id, **values)

    def metric(self, metric: Metric) -> None:
        """Record the metrics of a step."""
        if self.leads:
            self.store.add_metric(self.run.id, metric)
