"""A race: plans that differ in a few settings, trained against each other until one is left. Pure."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from specs import FinetunePlan, PlanError
from specs.doors.door import setting
from specs.effect import require_effect
from specs.fields import NAMES

MOST_TRIALS = 8
"""With more, the first of them would be dropped after a tenth of their steps, when little can be told of a rate."""

LAST_RUNG = 0.8
"""The share of their steps after which the last two trials are compared: learning rates that fall have mostly fallen.
Each comparison before comes after half as many steps. Four trials then take 2.6 times the steps of one."""

_APART = 0.75
"""From so many steps on, a step and the one after twice as many are rounded to different ones."""

VARIED = frozenset(
    {
        "method",
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
        *("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights"),
        *("loraplus_lr_ratio", "rank_pattern", "alpha_pattern", "init_r", "target_r", "tinit", "tfinal", "deltaT"),
        *("oft_block_size", "decompose_factor", "num_virtual_tokens", "prompt_tuning_init"),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    }
)
"""The fields in which plans of one race may differ: they leave the base model as it is loaded, and the same rows."""

_COMMA = re.compile(r",(?![^{}]*\})")
"""A comma between values: no closing brace comes after it before another one opens."""


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
    now: int | None = None
    """The trial that is being trained, or was last."""
    winner: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` described."""
        numbered: dict[str, Any] = {
            name: {int(trial): value for trial, value in values.get(name, {}).items()}
            for name in ("losses", "steps", "out")
        }
        plain: dict[str, Any] = {name: values.get(name) for name in ("own", "now", "winner")}
        return cls(varied=tuple(values["varied"]), changes=tuple(values["changes"]), **numbered, **plain)

    def to_dict(self) -> dict[str, Any]:
        """Return the race as plain JSON values."""
        numbered = {
            name: {str(trial): value for trial, value in getattr(self, name).items()}
            for name in ("losses", "steps", "out")
        }
        return {
            "varied": [*self.varied],
            "changes": [dict(change) for change in self.changes],
            **numbered,
            "own": self.own,
            "now": self.now,
            "winner": self.winner,
        }

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of their steps after which trials are compared."""
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

    def plan_of(self, trial: int, plan: FinetunePlan) -> FinetunePlan:
        """Return the plan of a trial, given that of another one or of the race."""
        return FinetunePlan.from_dict({**plan.to_dict(), **self.changes[trial]})

    @property
    def foretold(self) -> str:
        """What the race takes, known before it begins, as a sentence."""
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
            return "won"
        if trial in self.out:
            return f"out: {self.out[trial][1]}"
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
        return ", ".join(f"{name} {shown(values[name])}" for name in self.varied)


def race_of(plan: FinetunePlan, texts: Sequence[str]) -> Race:
    """Return the race of a plan for texts such as ``learning_rate=1e-4,2e-4``: every value with every other field's.

    The names of several modules are joined by ``+``.

    Raises:
        PlanError: If a plan is refused, too few or too many take part, they need different base models, or the training
            is too short.
    """
    pairs = [text.partition("=") for text in texts]
    names = [name for name, _, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError("--vary", "must name each field once", twice, "Write all its values in one --vary")
    options = [
        [setting("--vary", f"{name}{equals}{one}") for one in _values(name, text)] for name, equals, text in pairs
    ]
    count = math.prod(map(len, options))
    if not 2 <= count <= MOST_TRIALS:
        rule = f"must give 2 to {MOST_TRIALS} plans to compare"
        raise PlanError("--vary", rule, count, "Write it as learning_rate=1e-4,2e-4,4e-4")
    combinations = [dict(chosen) for chosen in itertools.product(*options)]
    plans = [with_values(plan, values) for values in combinations]
    if len(set(plans)) < len(plans):
        raise PlanError("--vary", "must give plans that differ", "a value twice", "Leave one out")
    for one in plans:
        require_effect(one, names, option="--vary")
        _require_together(plan, one)
    differing = sorted({name for one in plans for name, _ in _differences(plan, one)})
    each = [one.to_dict() for one in plans]
    race = Race(
        varied=tuple(names),
        changes=tuple({name: values[name] for name in differing} for values in each),
        own=plans.index(plan) if plan in plans else None,
    )
    if plan.max_steps > 0:
        for share in race.rungs:
            steps_at(share, plan.max_steps)
    return race


def with_values(plan: FinetunePlan, values: Mapping[str, Any]) -> FinetunePlan:
    """Return a plan with fields set; a new ``method`` or ``sharding`` sets its fields first.

    Raises:
        PlanError: If the plan refuses the values.
    """
    method = values.get("method", plan.method)
    base = plan if method == plan.method else plan.with_method(str(method))
    wished = FinetunePlan.from_dict({**base.to_dict(), **values})
    return wished if wished.sharding == plan.sharding else wished.with_sharding(wished.sharding, fixed=values)


def steps_at(share: float, total: int, *, logged: int = 1) -> int:
    """Return the optimizer step at which a share of a training is done.

    Args:
        share: The share, below 1.
        total: The steps of the whole training.
        logged: After how many steps each the loss is logged, as their mean; a training left between has two means.

    Raises:
        PlanError: If the training is too short for that.
    """
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


def _values(name: str, text: str) -> Iterator[str]:
    """Yield the texts of a field's values; a comma within the braces of a mapping divides none."""
    for one in _COMMA.split(text):
        yield one.replace("+", ",") if name in NAMES else one


def _differences(plan: FinetunePlan, other: FinetunePlan) -> Iterator[tuple[str, Any]]:
    before = plan.to_dict()
    yield from ((name, value) for name, value in other.to_dict().items() if value != before[name])


def _require_together(plan: FinetunePlan, other: FinetunePlan) -> None:
    """Refuse a trial that cannot use the base model and the rows of the others.

    Raises:
        PlanError: Names the field.
    """
    strange = next((name for name, _ in _differences(plan, other) if name not in VARIED), None)
    if strange is not None:
        rule = "cannot differ within a race, whose plans share one loaded model and its rows"
        raise PlanError(strange, rule, shown(getattr(other, strange)), "Start two runs and compare them")
    if not other.keeps_base:
        rule = "must leave the base model unchanged in a race, whose plans share it"
        raise PlanError("method", rule, other.method, "Choose an adapter, bias none, and neither pissa nor olora")
    if other.task_type == "FEATURE_EXTRACTION":
        raise PlanError("task_type", "cannot be raced", other.task_type, "Start two runs and compare them")
    if other.num_gpus > 1:
        raise PlanError("num_gpus", "must be 1 in a race", other.num_gpus, "Race on one, then run the winner's plan")
    if other.layer_offloading:
        rule = "must be off in a race: adapters begin with the weights of layers, which would wait in RAM"
        raise PlanError("layer_offloading", rule, None, "Start two runs and compare them")
