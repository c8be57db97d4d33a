"""What every part of a run's work needs: the run, where it writes, and whether it shall end."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from specs import FinetunePlan
from trainer.runs.contract import Metric, Phase, Run
from trainer.runs.store import Store


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part in a run. Of several processes, the one of rank 0 alone writes into the store."""

    run: Run
    store: Store
    stop: Event
    """Set when the run shall save and end."""
    hurry: Event = field(default_factory=Event)
    """Set when nobody waits for the answers: the machine goes down, or stop was asked for once more."""
    rank: int = 0
    """Number of this process among the run's, over all devices."""
    local_rank: int = 0
    """Its number on this machine, which is also the number of its card among those that it sees."""

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
        """Whether this process writes what the run notes and saves."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """The torch device; the launcher shows the worker only its own cards."""
        kind = self.run.place.device.partition(":")[0]
        return f"{kind}:{self.local_rank}" if kind in {"cuda", "xpu"} else kind

    def stop_wanted(self) -> bool:
        """Return whether somebody asked the run to end."""
        return self.stop.is_set() or self.store.stop_requested(self.run.id)

    def enter(self, phase: Phase) -> None:
        """Note what the run does now."""
        if self.leads:
            self.store.set_phase(self.run.id, phase)

    def event(self, kind: str, text: str) -> None:
        """Note something that happened."""
        if self.leads:
            self.store.add_event(self.run.id, kind, text)

    def details(self, **values: Any) -> None:
        """Note what was found out about the run."""
        if self.leads:
            self.store.add_details(self.run.id, **values)

    def measured(self, **values: Any) -> None:
        """Note what was measured."""
        if self.leads:
            self.store.add_measured(self.run.id, **values)

    def metric(self, metric: Metric) -> None:
        """Note what a step gave."""
        if self.leads:
            self.store.add_metric(self.run.id, metric)
