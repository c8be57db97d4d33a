"""Puts into words what the curves of a run show: each diagnosis names its rule and what to change."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specs import METHODS, FinetunePlan
from specs.units import with_digits
from trainer.runs.contract import Metric

WINDOW = 20
"""How many steps are compared with as many before: with the small batches of one card, fewer would be noise."""

_EVALUATIONS = 3
"""How many rises of eval_loss in a row count as overfitting, like early stopping with a patience of 3."""
_RISE = 1.5
"""Loss of the last window divided by that of the best, above which training diverges."""
_EARLY = 3
"""Losses in a window of a run too short for two of ``WINDOW``."""
_EARLY_RISE = 3.0
"""The rise above the first losses that counts as divergence there: so few losses differ by half through noise."""
_SPIKE = 10.0
"""Gradient norm divided by its median: clipping at 1 copes with less, and more comes from a few bad rows or steps."""
_FLAT = 0.01
"""Relative change between two windows below which the loss is flat."""
_HIGH_RATE = 0.2
"""Share of the highest learning rate below which the schedule is ending, so that a flat loss is normal."""
_FALLEN = 0.95
"""Loss of the last window divided by that of the first, below which something was learned."""
_FLAT_RULE = f"The means of the last two windows of {WINDOW} steps differ by less than {_FLAT:.0%}"
_SWING = 0.35
"""Standard deviation of the last window's losses divided by their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing that the curves show."""

    name: str
    """Learning rate too high, exploding gradients, overfitting, oscillation, learning rate too low or plateau."""
    sentence: str
    """The finding, with its numbers."""
    rule: str
    """The figures that it is based on."""
    advice: str
    """What to change; a rule's has places for what its method has."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factors for fields of the plan, if multiplying them is the remedy."""
    step: int | None = None
    """The step whose rows may be the cause."""

    def changed(self, plan: FinetunePlan) -> FinetunePlan:
        """Return the plan with the remedy, to two digits; the same plan if the remedy is not a number."""
        changes: dict[str, Any] = {name: _scaled(getattr(plan, name), factor) for name, factor in self.factors.items()}
        return dataclasses.replace(plan, **changes)

    def remedy(self, plan: FinetunePlan) -> str:
        """Return the remedy in the plan's own values, such as ``learning_rate 0.0002 -> 6.7e-05``, if it has one."""
        changed = self.changed(plan)
        return ", ".join(f"{name} {getattr(plan, name):g} -> {getattr(changed, name):g}" for name in self.factors)


def diagnoses(metrics: Sequence[Metric], method: str) -> tuple[Diagnosis, ...]:
    """Return what the metrics of a run show, the most urgent first; empty while there are too few.

    Args:
        metrics: What the run has measured, by step.
        method: How it trains: what is to be changed must be something that the method has.
    """
    size = METHODS[method].size_field
    words = {"or_lower": f" or {size}" if size else "", "or_raise": f" or raise {size}" if size else ""}
    found = (rule(metrics) for rule in _RULES)
    return tuple(dataclasses.replace(one, advice=one.advice.format(**words)) for one in found if one is not None)


def too_high(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that rises far above the best it has been."""
    losses = _values(metrics, "loss")
    if len(losses) >= 2 * WINDOW:
        means = [statistics.fmean(losses[end - WINDOW : end]) for end in range(WINDOW, len(losses) + 1, WINDOW // 2)]
        return _rise(
            min(means), statistics.fmean(losses[-WINDOW:]), _RISE, f"of the last {WINDOW} losses", "best window"
        )
    if len(losses) >= 2 * _EARLY:
        first, last = statistics.fmean(losses[:_EARLY]), statistics.fmean(losses[-_EARLY:])
        return _rise(first, last, _EARLY_RISE, f"of the last {_EARLY} losses", f"first {_EARLY}")
    return None


def _rise(before: float, last: float, limit: float, what: str, than: str) -> Diagnosis | None:
    if last < limit * before:
        return None
    return Diagnosis(
        name="learning rate too high",
        sentence=f"The loss rose from {before:.3f} to {last:.3f}.",
        rule=f"The mean {what} is more than {limit:g} times that of the {than}.",
        advice="Lower learning_rate to a third and retry, or raise warmup_steps.",
        factors={"learning_rate": 1 / 3},
    )


def exploding_gradients(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find gradient norms far above their median in a run whose learning rate is not the cause."""
    norms = _values(metrics, "grad_norm")
    if len(norms) < WINDOW or too_high(metrics) is not None:
        return None
    usual, highest = statistics.median(norms), max(norms[-WINDOW:])
    spike = next(metric.step for metric in reversed(metrics) if metric.grad_norm == highest)
    if usual <= 0 or highest < _SPIKE * usual:
        return None
    return Diagnosis(
        name="exploding gradients",
        sentence=f"The gradient norm reached {with_digits(highest, 3)} at step {spike:,}; usually it is "
        f"{with_digits(usual, 3)}.",
        rule=f"The highest of the last {WINDOW} steps is more than {_SPIKE:g} times the median of all steps.",
        advice="Lower max_grad_norm or learning_rate, and look for rows that differ from the rest.",
        factors={"max_grad_norm": 0.3},
        step=spike,
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
        advice="Keep the checkpoint from before the rise; lower num_train_epochs{or_lower}, or add data.",
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
        rule=f"The standard deviation of the last {WINDOW} losses is above {_SWING:.0%} of their mean.",
        advice="Raise gradient_accumulation_steps or lower learning_rate.",
        factors={"gradient_accumulation_steps": 2},
    )


def too_low(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that has not moved from where it started although the learning rate is high."""
    still = _flat(metrics)
    if still is None or still[0] < _FALLEN * still[1]:
        return None
    return Diagnosis(
        name="learning rate too low",
        sentence=f"The loss is still at {still[0]:.3f}, where it started ({still[1]:.3f}).",
        rule=f"{_FLAT_RULE}, and the last is less than {1 - _FALLEN:.0%} below the first window.",
        advice="Triple learning_rate{or_raise}, or check whether the answers can be learned at all.",
        factors={"learning_rate": 3},
    )


def plateau(metrics: Sequence[Metric]) -> Diagnosis | None:
    """Find a loss that has fallen and is flat although the learning rate is still high."""
    still = _flat(metrics)
    if still is None or still[0] >= _FALLEN * still[1]:
        return None
    return Diagnosis(
        name="plateau",
        sentence=f"The loss has fallen from {still[1]:.3f} to {still[0]:.3f} and stays there.",
        rule=f"{_FLAT_RULE} while learning_rate is above {_HIGH_RATE:.0%} of its maximum.",
        advice="Stop here, since more steps gain little{or_raise}, or clean the data.",
    )


def _flat(metrics: Sequence[Metric]) -> tuple[float, float] | None:
    """Return the mean loss of the last window and of the first, if the last two windows are flat."""
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
    """Return the number of equally likely tokens that the model hesitates between: ``exp`` of a loss on held-out rows.

    Of the rows that are learned it would tell how well they are known by heart.
    """
    return math.exp(min(loss, 700.0))


def _scaled(value: float, factor: float) -> float:
    """Return a setting times a factor: whole numbers stay whole, others keep two digits."""
    return round(value * factor) if isinstance(value, int) else float(f"{value * factor:.1e}")


def _values(metrics: Sequence[Metric], name: str) -> list[float]:
    return [value for metric in metrics if (value := getattr(metric, name)) is not None]
