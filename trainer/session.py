"""What every part of a run's work needs: the run, its store, and whether it shall end."""

from dataclasses import dataclass
from pathlib import Path
from threading import Event

from specs import FinetunePlan
from trainer.contract import Phase, Run
from trainer.failure import StopRequestedError
from trainer.store import Store


@dataclass(frozen=True, slots=True)
class Session:
    """What every part of a run's work needs."""

    run: Run
    store: Store
    stop: Event
    """Set when the run shall save and end."""

    @property
    def plan(self) -> FinetunePlan:
        """The plan of the run."""
        return self.run.plan

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.store.run_folder(self.run.id)

    @property
    def device(self) -> str:
        """The torch device; the launcher shows the worker only its own card."""
        kind = self.run.place.device.partition(":")[0]
        return f"{kind}:0" if kind in {"cuda", "xpu"} else kind

    def enter(self, phase: Phase) -> None:
        """Note the phase, or leave if the run shall end before it begins to train.

        Raises:
            StopRequestedError: If somebody asked the run to end.
        """
        if self.stop.is_set() or self.store.stop_requested(self.run.id):
            raise StopRequestedError
        self.store.set_phase(self.run.id, phase)
