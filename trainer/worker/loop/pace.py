"""How fast a run goes: steps, evaluations and checkpoints apart, and from them how long it still takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

_RECENT = 20
"""Steps from which the speed of the coming ones is told."""
_ENOUGH = 3
"""Steps after the first one, which warms up, before anything is told of the coming ones."""


@dataclass(slots=True)
class Pace:
    """The times of one worker's steps, and of what lies between them."""

    forecast: Mapping[str, Any] = field(default_factory=dict)
    """What was forecast when the run was created: ``seconds_per_step`` and the ``parts`` of the whole; may be empty."""
    save_steps: int = 0
    """After every so many steps the run is evaluated and a checkpoint is written."""
    steps: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    """Processor time of the main thread in each step: on a CPU, what the step takes when nothing else runs."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between the end of a step and the begin of the next one."""
    pauses: list[float] = field(default_factory=list)
    """Those of the gaps in which the run was evaluated or saved."""
    _at: float | None = None
    _worked_at: float = 0.0

    def begin(self, step: int, now: float, worked: float = 0.0) -> None:
        """Note that a step begins, after ``step`` steps, with the processor time of the thread so far."""
        self._worked_at = worked
        if self.steps and self._at is not None:
            paused = self.save_steps and step % self.save_steps == 0
            (self.pauses if paused else self.gaps).append(now - self._at)
        self._at = now

    def end(self, now: float, worked: float = 0.0) -> None:
        """Note that a step ends."""
        self.worked.append(worked - self._worked_at)
        if self._at is not None:
            self.steps.append(now - self._at)
        self._at = now

    @property
    def steady(self) -> float | None:
        """Seconds of a step, the first one left out as soon as there are others."""
        known = self.steps[1:][-_RECENT:] or self.steps
        return median(known) if known else None

    def left(self, step: int, last: int) -> float | None:
        """Return the seconds until the run is over, its answers included; None while too few steps are measured."""
        if self.steady is None or (step < last and len(self.steps) <= _ENOUGH):
            return None
        each = self.steady + (fmean(self.gaps[-_RECENT:]) if self.gaps else 0.0)
        pauses = (last - 1) // self.save_steps - step // self.save_steps if self.save_steps else 0
        return (last - step) * each + max(0, pauses) * self._pause() + self._afterwards()

    def parts(self) -> dict[str, float]:
        """Return what was measured of each part."""
        found = {"first_step": self.steps[0], "seconds_per_step": self.steady or 0.0} if self.steps else {}
        if self.worked:
            found["worked_per_step"] = median(self.worked[1:][-_RECENT:] or self.worked)
        return {**found, "training": sum(self.steps) + sum(self.gaps), "pauses": sum(self.pauses)}

    def _pause(self) -> float:
        if self.pauses:
            return fmean(self.pauses[-_RECENT:])
        return self._slower() * self._forecast("evaluating", "saving") / max(1.0, self.forecast.get("pauses", 1.0))

    def _afterwards(self) -> float:
        """Return the seconds of the answers: as forecast, by as much slower as the steps have been."""
        return self._slower() * self._forecast("answering")

    def _slower(self) -> float:
        expected = self.forecast.get("seconds_per_step")
        return (self.steady or 0.0) / expected if expected else 1.0

    def _forecast(self, *names: str) -> float:
        parts = self.forecast.get("parts", {})
        return float(sum(parts.get(name, 0.0) for name in names))
