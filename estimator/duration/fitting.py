"""Fits the shares of peaks to published runs, and measures the fit on cards that it has not seen."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from estimator.duration.published import Shares, TimedRun

Floats = NDArray[np.float64]

START = Shares(
    matmul=0.8, half_tokens=100.0, attention=0.8, memory=0.6, expansion=0.3, call_seconds=8e-6, cache=0.3, halved=1.2
)
"""Where the search starts, and what it is drawn towards where no run decides. ``halved``: cuBLAS reaches up to 0.96 of
the rate of an L20, which adds up at half rate (115 of 119.5: github DefTruth/CUDA-Learn-Notes, hgemm/README.md)."""
_TRUST = Shares(
    matmul=0.1, half_tokens=1.0, attention=0.3, memory=0.3, expansion=0.7, call_seconds=0.5, cache=0.7, halved=0.1
)
"""How far, as the logarithm of a factor, each share may lie from there."""
_RUN_SPREAD = 0.12
"""How far runs scatter around any fit, as the logarithm of a factor."""
_ROUNDS = 12
_STEP = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Shares with the errors they leave."""

    shares: Shares
    factors: dict[str, float]
    """For each card with runs, how many times as long they took as the shares say."""
    error: float
    """Mean error of the seconds of a pass, on cards with runs."""
    left_out: dict[str, float]
    """Mean error on each card by a fit to all others."""

    @property
    def error_left_out(self) -> float:
        """What to expect of a card that the fit has not seen."""
        return fmean(self.left_out.values())


def fitted(runs: Sequence[TimedRun]) -> Fit:
    """Return the shares that fit runs best; each card counts alike, however many runs it has."""
    shares = _shares(runs)
    factors = _factors(runs, shares)
    return Fit(
        shares=shares,
        factors=factors,
        error=fmean(error_of(run, run.predicted(shares, factor=factors[run.gpu.name])) for run in runs),
        left_out={card: _left_out(runs, card) for card in factors},
    )


def error_of(run: TimedRun, predicted: float) -> float:
    """Return the error of a prediction as a share of what was measured."""
    return abs(predicted / run.seconds - 1)


def _left_out(runs: Sequence[TimedRun], card: str) -> float:
    shares = _shares([run for run in runs if run.gpu.name != card])
    return fmean(error_of(run, run.predicted(shares)) for run in runs if run.gpu.name == card)


def _factors(runs: Sequence[TimedRun], shares: Shares) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.gpu.name, []).append(math.log(run.seconds / run.predicted(shares)))
    return {card: math.exp(fmean(logs)) for card, logs in found.items()}


def _shares(runs: Sequence[TimedRun]) -> Shares:
    """Return the most likely shares, by Gauss-Newton on logarithms."""
    counts = {run.gpu.name: sum(other.gpu.name == run.gpu.name for other in runs) for run in runs}
    weights = np.array([1 / (_RUN_SPREAD * math.sqrt(counts[run.gpu.name])) for run in runs]) * 2
    trust = np.array(list(asdict(_TRUST).values()))
    at = np.zeros(len(trust))
    for _ in range(_ROUNDS):
        errors = _errors(runs, at)
        slopes = np.stack([(_errors(runs, at + _STEP * unit) - errors) / _STEP for unit in np.eye(len(at))], axis=1)
        left = np.vstack([weights[:, None] * slopes, np.diag(1 / trust)])
        right = np.concatenate([weights * errors, at / trust])
        change = np.linalg.lstsq(left, right, rcond=None)[0]
        at = at - np.clip(change, -0.5, 0.5)
    return _moved(at)


def _errors(runs: Sequence[TimedRun], at: Floats) -> Floats:
    shares = _moved(at)
    return np.array([math.log(run.predicted(shares) / run.seconds) for run in runs])


def _moved(at: Floats) -> Shares:
    values = asdict(START)
    return replace(START, **{name: value * math.exp(x) for (name, value), x in zip(values.items(), at, strict=True)})
