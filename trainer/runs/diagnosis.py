"""Says in words what the curves of a run show: each diagnosis names its rule and what to change."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specs import FinetunePlan
from trainer.runs.contract import Metric

WINDOW = 20
"""Steps that are compared with the same number of steps before: fewer are noise with the small batches of one card."""

_EVALUATIONS = 3
"""Evaluations in a row that rise before it counts as overfitting, as early stopping with a patience of 3 does."""
_RISE = 1.5
"""Loss of the last window over the best window, above which the training runs away."""
_SPIKE = 10.0
"""Gradient norm over its median: clipping at 1 handles less, and what is beyond comes from single bad rows or steps."""
_FLAT = 0.01
"""Relative change between two windows below which the loss stands still."""
_HIGH_RATE = 0.2
"""Share of the highest learning rate below which a schedule has run out and a level loss is its end."""
_FALLEN = 0.95
"""Last window over first below which something was learned."""
_STILL_RULE = f"Means of the last two windows of {WINDOW} steps differ by less than {_FLAT:.0%}"
_SWING = 0.35
"""Standard deviation over mean of the last window's losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing that the curves show."""

    name: str
    """Learning rate too high, exploding gradients, overfitting, oscillation, learning rate too low or plateau."""
    sentence: str
    """What is seen, with its numbers."""
    rule: str
    """From which figures it follows."""
    advice: str
    """What to change."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """By what to multiply fields of the plan, where that is the remedy."""

    def changed(self, plan: FinetunePlan) -> FinetunePlan:
        """Return the plan with the remedy, values to two digits; the same plan where the remedy is no number."""
        changes: dict[str, Any] = {name: _scaled(getattr(plan, name), factor) for name, factor in self.factors.items()}
        return dataclasses.replace(plan, **changes)

    def remedy(self, plan: FinetunePlan) -> str:
        """Return the remedy in the plan's own values, such as ``learning_rate 0.0002 -> 6.7e-05``, if it has one."""
        changed = self.changed(plan)
        return ", ".join(f"{name} {getattr(plan, name):g} -> {getattr(changed, name):g}" for name in self.factors)


def diagnoses(metrics: Sequence[Metric]) -> tuple[Diagnosis, ...]:
    """Return what the metrics of a run show, the most urgent first; nothing while there are too few."""
    return tuple(found for rule in _RULES if (found := rule(metrics)) is not None)


def too_high(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that rises far above the best it has been."""
    losses = _values(metrics, "loss")
    if len(losses) < 2 * WINDOW:
        return None
    means = [statistics.fmean(losses[end - WINDOW : end]) for end in range(WINDOW, len(losses) + 1, WINDOW // 2)]
    best, last = min(means), statistics.fmean(losses[-WINDOW:])
    if last < _RISE * best:
        return None
    return Diagnosis(
        name="learning rate too high",
        sentence=f"The loss rose from {best:.3f} to {last:.3f}.",
        rule=f"Mean of the last {WINDOW} losses against the best window: more than {_RISE:g} times.",
        advice="Lower learning_rate to a third and retry; lengthen warmup_steps.",
        factors={"learning_rate": 1 / 3},
    )


def exploding_gradients(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find gradient norms far above their median."""
    norms = _values(metrics, "grad_norm")
    if len(norms) < WINDOW:
        return None
    usual, highest = statistics.median(norms), max(norms[-WINDOW:])
    if usual <= 0 or highest < _SPIKE * usual:
        return None
    return Diagnosis(
        name="exploding gradients",
        sentence=f"The gradient norm reached {highest:.3g}, usually it is {usual:.3g}.",
        rule=f"Highest of the last {WINDOW} steps against the median of all: more than {_SPIKE:g} times.",
        advice="Lower max_grad_norm or learning_rate, and look for rows that are unlike the others.",
        factors={"max_grad_norm": 0.3},
    )


def overfitting(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find an evaluation loss that rises while the training loss falls."""
    held_out = _values(metrics, "eval_loss")
    last = held_out[-_EVALUATIONS - 1 :]
    losses = _values(metrics, "loss")
    rising = len(last) > _EVALUATIONS and all(after > before for before, after in itertools.pairwise(last))
    if not rising or len(losses) < 2 or statistics.fmean(losses[-WINDOW:]) >= statistics.fmean(losses[:WINDOW]):
        return None
    return Diagnosis(
        name="overfitting",
        sentence=f"The loss on held-out rows rose from {last[0]:.3f} to {last[-1]:.3f} while the training loss fell.",
        rule=f"eval_loss rose {_EVALUATIONS} times in a row.",
        advice="Keep the checkpoint before the rise; lower num_train_epochs or r, or add data.",
    )


def oscillation(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find losses that swing widely around a level."""
    losses = _values(metrics, "loss")
    if len(losses) < 2 * WINDOW:
        return None
    last, before = losses[-WINDOW:], losses[-2 * WINDOW : -WINDOW]
    mean = statistics.fmean(last)
    if mean <= 0 or statistics.stdev(last) < _SWING * mean or mean < 0.9 * statistics.fmean(before):
        return None
    return Diagnosis(
        name="oscillation",
        sentence=f"The loss swings by {statistics.stdev(last):.3f} around {mean:.3f} and does not fall.",
        rule=f"Standard deviation of the last {WINDOW} losses above {_SWING:.0%} of their mean.",
        advice="Raise gradient_accumulation_steps or lower learning_rate.",
        factors={"gradient_accumulation_steps": 2},
    )


def too_low(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that has not moved from where it began although the learning rate is high."""
    still = _stands_still(metrics)
    if still is None or still[0] < _FALLEN * still[1]:
        return None
    return Diagnosis(
        name="learning rate too low",
        sentence=f"The loss stays at {still[0]:.3f}, where it began ({still[1]:.3f}).",
        rule=f"{_STILL_RULE}, and the last one lies less than {1 - _FALLEN:.0%} below the first.",
        advice="Raise learning_rate threefold; or raise r, or look whether the answers can be learned at all.",
        factors={"learning_rate": 3},
    )


def plateau(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that has fallen and stands still although the learning rate is still high."""
    still = _stands_still(metrics)
    if still is None or still[0] >= _FALLEN * still[1]:
        return None
    return Diagnosis(
        name="plateau",
        sentence=f"The loss has come from {still[1]:.3f} to {still[0]:.3f} and stays there.",
        rule=f"{_STILL_RULE} while learning_rate is above {_HIGH_RATE:.0%} of its highest.",
        advice="Stop here, the rest brings little; or raise r, or clean the data.",
    )


def _stands_still(metrics: Sequence[Metric]) -> tuple[float, float] | None:
    """Return the mean loss of the last window and of the first, if the last two windows are level."""
    losses, rates = _values(metrics, "loss"), _values(metrics, "learning_rate")
    if len(losses) < 3 * WINDOW or not rates or rates[-1] < _HIGH_RATE * max(rates):
        return None
    now, before = statistics.fmean(losses[-WINDOW:]), statistics.fmean(losses[-2 * WINDOW : -WINDOW])
    return None if abs(now - before) > _FLAT * before else (now, statistics.fmean(losses[:WINDOW]))


_RULES: tuple[Callable[[Sequence[Metric]], Diagnosis | None], ...] = (
    too_high,
    exploding_gradients,
    overfitting,
    oscillation,
    too_low,
    plateau,
)


def perplexity(loss: float) -> float:
    """Return among how many equally likely tokens the model is undecided: ``exp(loss)``."""
    return math.exp(min(loss, 700.0))


def _scaled(value: float, factor: float) -> float:
    """Return a setting times a factor: whole numbers stay whole, others keep two digits."""
    return round(value * factor) if isinstance(value, int) else float(f"{value * factor:.1e}")


def _values(metrics: Sequence[Metric], name: str) -> list[float]:
    return [value for metric in metrics if (value := getattr(metric, name)) is not None]
