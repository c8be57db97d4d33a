"""A race: plans that differ in a few settings, trained against each other until one is left. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from specs import FinetunePlan, PlanError

LAST_RUNG = 0.8
"""The share of their steps after which the last two trials are compared: learning rates that fall have mostly fallen.
Each comparison before comes after half as many steps. Four trials then take 2.6 times the steps of one."""

_NUMBERED = ("losses", "steps", "out", "seconds")
"""What a race holds by the number of a trial."""

_APART = 0.75
"""From so many steps on, a step and the one after twice as many are rounded to different ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The trials of a race, and what it has found so far. A trial is known by its number, from 0."""

    varied: tuple[str, ...]
    """The fields that somebody asked to vary."""
    changes: tuple[Mapping[str, Any], ...]
    """What each trial has in the fields in which any of them differ, so that any plan becomes any other."""
    own: int | None = None
    """The trial that is the plan that the race was asked for, if it takes part."""
    losses: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """The held-out loss of each trial at each rung that it has reached."""
    steps: Mapping[int, int] = field(default_factory=dict)
    """The steps of each trial's whole training, once they are known."""
    out: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Why a trial ended before it could be compared: the kind of error and its sentence."""
    seconds: Mapping[int, float] = field(default_factory=dict)
    """How long each trial has trained: on a CPU the processor time, which does not depend on what else runs."""
    now: int | None = None
    """The trial that is being trained, or was last."""
    winner: int | None = None
    repeats: int = 0
    """In an ablation, with how many seeds each plan is trained, and none is dropped; 0 for a race."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` described."""
        numbered: dict[str, Any] = {
            name: {int(trial): value for trial, value in values.get(name, {}).items()} for name in _NUMBERED
        }
        plain: dict[str, Any] = {name: values.get(name) for name in ("own", "now", "winner")}
        plain["repeats"] = values.get("repeats", 0)
        return cls(varied=tuple(values["varied"]), changes=tuple(values["changes"]), **numbered, **plain)

    def to_dict(self) -> dict[str, Any]:
        """Return the race as plain JSON values."""
        numbered = {name: {str(trial): value for trial, value in getattr(self, name).items()} for name in _NUMBERED}
        return {
            "varied": [*self.varied],
            "changes": [dict(change) for change in self.changes],
            **numbered,
            "own": self.own,
            "now": self.now,
            "winner": self.winner,
            "repeats": self.repeats,
        }

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of their steps after which trials are compared."""
        if self.repeats:
            return (1.0,)
        count = math.ceil(math.log2(len(self.changes)))
        return tuple(LAST_RUNG / 2 ** (count - 1 - rung) for rung in range(count))

    @property
    def runs_time(self) -> float:
        """How many times the steps of one run the whole race takes, to the end of its winner."""
        total, before, left = 0.0, 0.0, len(self.changes)
        for rung in self.rungs:
            total, before, left = total + left * (rung - before), rung, _half(left)
        return total + 1 - before

    def entering(self, rung: int) -> tuple[int, ...]:
        """Return the trials that train on to a rung: of those before, the half with the lower held-out loss.

        The plan that was asked for stays until the last comparison, so that the winner was held against it.
        """
        if self.repeats and rung:
            return () if self.best is None else (self.best,)
        left: Sequence[int] = range(len(self.changes))
        for before in range(rung):
            ranked = self.ranked(before, left)
            kept = ranked[: _half(len(left))]
            if before < len(self.rungs) - 1 and self.own in ranked and self.own not in kept:
                kept[-1] = self.own
            left = sorted(kept)
        return tuple(left)

    def ranked(self, rung: int, trials: Sequence[int]) -> list[int]:
        """Return those of some trials that have a loss at a rung, the lowest first; of equal ones, the own plan's."""
        known = [trial for trial in trials if trial not in self.out and len(self.losses.get(trial, ())) > rung]
        return sorted(known, key=lambda trial: (self.losses[trial][rung], trial != self.own))

    @property
    def most_kept(self) -> int:
        """Of how many trials there are checkpoints at once at most."""
        return 2 if self.repeats else len(self.changes)

    def group(self, trial: int) -> range:
        """Return the trials of the same plan, which differ in their seed."""
        first = trial - trial % max(1, self.repeats)
        return range(first, first + max(1, self.repeats))

    @property
    def best(self) -> int | None:
        """In an ablation, the first trial of the plan with the lowest mean loss, of those trained with every seed.

        The first has the seed of the race itself, by which rows are held out.
        """
        sums = {
            group[0]: math.fsum(self.losses[trial][-1] for trial in group)
            for group in map(self.group, range(0, len(self.changes), max(1, self.repeats)))
            if all(self.losses.get(trial) for trial in group)
        }
        return min(sums, key=sums.__getitem__, default=None)

    def plan_of(self, trial: int, plan: FinetunePlan) -> FinetunePlan:
        """Return the plan of a trial, given that of another one or of the race."""
        return FinetunePlan.from_dict({**plan.to_dict(), **self.changes[trial]})

    @property
    def foretold(self) -> str:
        """What the race takes, known before it begins, as a sentence."""
        if self.repeats:
            plans = len(self.changes) // self.repeats
            seeds = f"{self.repeats} seeds" if self.repeats > 1 else "one seed"
            return (
                f"{plans} plans with {seeds} each are {len(self.changes)} trainings, each as long as one run. One is "
                "in memory at a time, and the best so far is kept on the disk."
            )
        return (
            f"{len(self.changes)} plans take {self.runs_time:.1f} times as long as one run, winner included. "
            "One is in memory at a time, as in a run; the others wait as checkpoints on the disk."
        )

    @property
    def hint(self) -> str:
        """What to try next, as a sentence: beyond the end of a row of numbers, if the last of them won; else empty."""
        name, *more = self.varied
        found = [change.get(name) for change in self.changes]
        values = [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]
        if self.winner is None or more or len(values) < len(found):
            return ""
        best = values[self.winner]
        if best not in {min(values), max(values)}:
            return ""
        end, way = ("highest", "higher") if best == max(values) else ("lowest", "lower")
        return f"The {end} {name} won: a {way} one may be better still."

    @property
    def done(self) -> float:
        """The share of the whole race that is done, counted at its comparisons."""
        shares = (0.0, *self.rungs)
        return sum(shares[len(found)] for found in self.losses.values()) / self.runs_time

    def outcome(self, trial: int, *, trains: bool) -> str:
        """Return in a few words what became of a trial.

        Args:
            trial: Its number.
            trains: Whether a worker is busy with the race.
        """
        if trial == self.winner:
            return "best" if self.repeats else "won"
        if trial in self.out:
            return f"out: {self.out[trial][1]}"
        if self.repeats and trial in self.losses:
            return "trained"
        reached = len(self.losses.get(trial, ()))
        if self.winner is not None or (0 < reached < len(self.rungs) and self._is_left_behind(trial, reached)):
            return f"dropped after {percent(self.rungs[reached - 1])}" if reached else "dropped"
        return "training" if trial == self.now and trains else "waiting"

    def _is_left_behind(self, trial: int, rung: int) -> bool:
        """Return whether all were compared at the rung before, and this one does not go on."""
        before = self.entering(rung - 1)
        compared = all(one in self.out or len(self.losses.get(one, ())) >= rung for one in before)
        return compared and trial not in self.entering(rung)

    def label(self, trial: int, plan: FinetunePlan) -> str:
        """Return what a trial is called: the varied fields with its values."""
        values = self.plan_of(trial, plan).to_dict()
        told = ", ".join(f"{name} {shown(values[name])}" for name in self.varied)
        return f"{told}, seed {values['seed']}" if self.repeats > 1 else told


def steps_at(share: float, total: int, *, logged: int = 1) -> int:
    """Return the optimizer step at which a share of a training is done.

    Args:
        share: The share, below 1.
        total: The steps of the whole training.
        logged: After how many steps each the loss is logged, as their mean; a training left between has two means.

    Raises:
        PlanError: If the training is too short for that.
    """
    if share == 1:
        return total
    exact = share * total
    step = round(exact / logged) * logged if exact >= _APART * logged else 0
    if not 0 < step < total:
        step = round(exact)
    if exact < _APART or not 0 < step < total:
        way_out = "Train longer, or race fewer plans"
        raise PlanError("max_steps", "must leave steps between the comparisons of a race", total, way_out)
    return step


def percent(share: float) -> str:
    """Return a share as it is written in sentences."""
    return f"{100 * share:g}%"


def shown(value: object) -> str:
    """Return the value of a varied field as it is written on the command line."""
    if isinstance(value, float):
        return f"{value:g}"
    return (
        "+".join(map(str, value))
        if isinstance(value, list | tuple)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )


def _half(count: int) -> int:
    return math.ceil(count / 2)
