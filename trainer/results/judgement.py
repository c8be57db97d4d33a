"""Whether a tuned model is better than its base: paired differences with what chance explains, and the verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST_ROWS = 6
"""Rows below which nothing is said of better or worse: with 5, even five times the same way has p = 2 / 2^5 = 0.06."""
LEVEL = 0.95
_RESAMPLED = 4000
_AT_ONCE = 10_000_000
"""Values drawn at once: all draws of 100,000 rows together would take gigabytes."""
_EQUAL = 1e-12
"""Differences of scores that are rounding."""
_ONE_IN_TWENTY = 1 - LEVEL
_LOSSES = {"loss", "general"}
_TOLD_ONLY = {"general", "benchmark"}
"""What decides nothing, since it is not what the run was for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One quantity of both models on the same rows."""

    name: str
    label: str
    base: float
    tuned: float
    rows: int
    low: float
    high: float
    """Tuned less base: the interval that holds ``LEVEL`` of what other rows of the same kind would give."""
    p: float
    """Probability of a difference as large if both models were equally good."""
    of: str = "base model"
    """What the tuned model is held against."""
    counts: bool = False
    """Whether each row is right or wrong, so that the values are shares of rows."""

    @property
    def is_certain(self) -> bool:
        """Whether chance alone hardly explains the difference."""
        return self.rows >= FEWEST_ROWS and self.p < _ONE_IN_TWENTY and (self.low > 0 or self.high < 0)


def losses(name: str, label: str, rows: Sequence[tuple[float, float, int]]) -> Compared:
    """Compare losses per token; ties of a row's tokens are kept by drawing whole rows.

    Args:
        name: The quantity.
        label: What it is called.
        rows: For each row the base model's loss, the tuned model's, both in nats over all tokens, and how many tokens.
    """
    base, tuned, tokens = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    low, high = _interval((base, tuned, tokens), lambda b, t, n, axis: (t - b).sum(axis) / n.sum(axis))
    return Compared(
        name=name,
        label=label,
        base=float(base.sum() / tokens.sum()),
        tuned=float(tuned.sum() / tokens.sum()),
        rows=len(rows),
        low=low,
        high=high,
        p=_chance((tuned - base) / tokens.mean()),
    )


def scores(name: str, label: str, base: Sequence[float], tuned: Sequence[float], *, of: str = "base model") -> Compared:
    """Compare scores of rows, from 0 to 1; those that are only right or wrong by McNemar's exact test.

    Source:
        McNemar 1947, https://doi.org/10.1007/BF02295996; Dietterich 1998 on comparing two learned models.
    """
    left, right = np.array(base, dtype=float), np.array(tuned, dtype=float)
    low, high = _interval((left, right), lambda b, t, axis: (t - b).mean(axis))
    differ = int((left != right).sum())
    binary = set(left.tolist()) | set(right.tolist()) <= {0.0, 1.0}
    won = int((right > left).sum())
    p = (float(stats.binomtest(won, differ).pvalue) if differ else 1.0) if binary else _chance(right - left)
    return Compared(
        name=name,
        label=label,
        base=float(left.mean()),
        tuned=float(right.mean()),
        rows=len(left),
        low=low,
        high=high,
        p=p,
        of=of,
        counts=binary,
    )


def sums(
    name: str,
    label: str,
    base: Sequence[Sequence[int]],
    tuned: Sequence[Sequence[int]],
    score: Callable[[Sequence[int]], float],
) -> Compared:
    """Compare a score, from 0 to 1, of counts that are summed over rows.

    Args:
        name: The quantity.
        label: What it is called.
        base: The base model's counts of each row.
        tuned: Those of the tuned model.
        score: What gives the score of summed counts.

    Source:
        Koehn 2004 for drawing rows again, https://aclanthology.org/W04-3250; Riezler and Maxwell 2005 for swapping
        models, https://aclanthology.org/W05-0908.
    """
    left, right, rng = np.array(base), np.array(tuned), np.random.default_rng(0)

    def change(one: Any, other: Any) -> float:
        return score(other.sum(0).tolist()) - score(one.sum(0).tolist())

    drawn = (rng.integers(len(left), size=len(left)) for _ in range(_RESAMPLED))
    low, high = np.percentile([change(left[rows], right[rows]) for rows in drawn], [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    swaps = (rng.random((len(left), 1)) < 0.5 for _ in range(_RESAMPLED))
    by_chance = [change(np.where(swap, right, left), np.where(swap, left, right)) for swap in swaps]
    as_large = int((np.abs(by_chance) >= abs(change(left, right)) - _EQUAL).sum())
    return Compared(
        name=name,
        label=label,
        base=score(left.sum(0).tolist()),
        tuned=score(right.sum(0).tolist()),
        rows=len(left),
        low=float(low),
        high=float(high),
        p=(as_large + 1) / (_RESAMPLED + 1),
    )


def _interval(samples: tuple[Any, ...], statistic: Any) -> tuple[float, float]:
    """Return where the statistic lies if rows are drawn again."""
    if len(samples[0]) < 2:
        found = float(statistic(*samples, axis=-1))
        return found, found
    drawn = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        n_resamples=_RESAMPLED,
        batch=_batch(len(samples[0])),
        confidence_level=LEVEL,
        method="percentile",
        rng=0,
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _chance(differences: Any) -> float:
    """Return how often a mean as far from 0 comes from swapping the two models of rows at random."""
    if len(differences) < 2 or not np.any(differences):
        return 1.0
    swapped = stats.permutation_test(
        (differences,),
        lambda d, axis: d.mean(axis),
        permutation_type="samples",
        n_resamples=_RESAMPLED,
        batch=_batch(len(differences)),
        rng=0,
    )
    return float(swapped.pvalue)


def _batch(num_rows: int) -> int:
    """Return how many draws of so many rows are made at once."""
    return max(1, min(_RESAMPLED, _AT_ONCE // num_rows))


def verdict(found: Sequence[Compared], *, basis: str, of: int) -> Mapping[str, Any]:
    """Return whether the tuned model is better, in one sentence with its numbers.

    The loss of what was to be learned decides, or where it is not measured the first score; a score that got worse for
    certain takes it back.

    Args:
        found: What was compared: general text and benchmarks by these names, all else on the rows of the task.
        basis: Which rows these are, such as ``held-out rows``.
        of: How many such rows there are.
    """
    task = [one for one in found if one.name not in _TOLD_ONLY]
    first, scored = task[0], [one for one in task if one.name not in _LOSSES]
    gained = _is_better(first) or (first.name == "loss" and not _is_worse(first) and any(map(_is_better, scored)))
    better = gained and not any(map(_is_worse, task))
    worse = any(map(_is_worse, task))
    if first.rows < FEWEST_ROWS:
        better, opening = False, f"Too few rows to tell, {FEWEST_ROWS} are the least"
    else:
        opening = f"{'Better' if better else 'Worse' if worse else 'No better'} than the {first.of}"
    telling = next((one for one in scored if one.is_certain), scored[0] if scored else first)
    told = "; ".join(_told(one) for one in dict.fromkeys((first, telling)))
    rows = f"{of:,} {basis}" if first.rows == of > 1 else f"{first.rows:,} of {of:,} {basis}"
    sentence = f"{opening}, on {rows}: {told}."
    sentence += "".join(f" {_told_general(one)}." for one in found if one.name == "general")
    sentence += "".join(f" Benchmark: {_told(one)}." for one in found if one.name == "benchmark")
    return {"better": bool(better), "worse": worse, "sentence": sentence}


def as_json(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return what was compared as plain values."""
    return [{**asdict(one), "certain": one.is_certain} for one in found]


def perplexities(one: Compared) -> tuple[float, float]:
    """Return the perplexity of the base and of the tuned model: exp of the loss per token."""
    return math.exp(min(one.base, 700.0)), math.exp(min(one.tuned, 700.0))


def _is_better(one: Compared) -> bool:
    return one.is_certain and (one.high < 0 if one.name in _LOSSES else one.low > 0)


def _is_worse(one: Compared) -> bool:
    return one.is_certain and (one.low > 0 if one.name in _LOSSES else one.high < 0)


def _told(one: Compared) -> str:
    if one.name == "loss":
        before, after = perplexities(one)
        return f"perplexity {before:.4g} → {after:.4g} ({_by_chance(one)})"
    if one.counts:
        right = [f"{value * one.rows:,.0f}" for value in (one.base, one.tuned)]
        return f"{_within(one.label)} {' → '.join(right)} of {one.rows:,} ({_by_chance(one)})"
    return f"{_within(one.label)} {one.base:.1%} → {one.tuned:.1%} on {one.rows:,} rows ({_by_chance(one)})"


def _within(label: str) -> str:
    """Return a label as it stands within a sentence; an abbreviation stays as it is."""
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def _by_chance(one: Compared) -> str:
    return f"p = {one.p:.2g}" if one.p >= 0.001 else "p < 0.001"


def _told_general(one: Compared) -> str:
    before, after = perplexities(one)
    change = after / before - 1
    if not one.is_certain:
        return f"General text: perplexity {before:.4g} → {after:.4g}, which chance explains"
    return f"General text: perplexity {abs(change):.1%} {'higher' if change > 0 else 'lower'}"
