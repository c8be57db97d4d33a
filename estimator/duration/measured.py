"""From what a machine's measurements say to its curves: single kinds of work, held against whole small steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from estimator.duration.operations import Kind, operations
from estimator.duration.step import seconds_by_kind
from specs import FinetunePlan, ModelSpec, SpecError
from specs.curves import (
    MEASURED_METHODS,
    MEASURED_MODEL,
    MEASURED_RANK,
    MEASURED_STEPS,
    SECONDS,
    Curves,
    require_possible,
)

_EIGHT_BIT_SLOWER = {"cpu": 1.3, "cuda": 2.5}
"""8-bit products compared with plain ones: SmolLM2-135M on two cores, 2 x 128 tokens, 1.22 s against 0.94 s (torch
2.13.0, bitsandbytes 0.50.2, 2026-11-22); on a GPU see ``published.EIGHT_BIT_SLOWER``."""


def curves_from(found: Mapping[str, Any], device: str) -> Curves:
    """Return the curves of a device from the answer of ``trainer.worker.calibrating``.

    Whole steps take longer than the sum of their kinds: caches are cold, results need fresh pages, and Python does more
    than start kernels. Factors are fitted to the measured steps: one for adapters, one for expanding weights, one for
    calls, and one for all else.

    Raises:
        SpecError: If a figure is none that a device can have.
    """
    kind = device.partition(":")[0]
    single = Curves(
        matmul={dtype: tuple((tokens, rate) for tokens, rate in points) for dtype, points in found["matmul"].items()},
        attention_flops=found["attention"],
        moved=found["moved"],
        adapter=found["adapter"],
        expanded=found["expanded"],
        eight_bit=_EIGHT_BIT_SLOWER[kind],
        call_seconds=found["call_seconds"],
        overlaps=kind != "cpu",
        seconds_to_start=found["seconds_to_start"],
        source="measured on this machine",
    )
    if single.overlaps:
        return single
    by = _closed(single, found["steps"])
    factor = by["computing"]
    return replace(
        single,
        matmul={dtype: tuple((t, rate / factor) for t, rate in points) for dtype, points in single.matmul.items()},
        attention_flops=single.attention_flops / factor,
        moved=single.moved / factor,
        adapter=single.adapter / by["adapter"],
        expanded=single.expanded / by["expanded"],
        call_seconds=single.call_seconds * by["calls"],
    )


_LEAST = {"computing": 0.5, "adapter": 0.5, "expanded": 0.5, "calls": 1.0}
"""What whole steps are fitted by: factors on the seconds that kinds of work take alone, and the least of each."""


def _closed(curves: Curves, steps: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the factors of ``_LEAST`` with which the measured steps come out."""
    if set(steps) != set(MEASURED_METHODS):
        raise SpecError("steps", f"must be of {', '.join(MEASURED_METHODS)}", ", ".join(steps))
    shares = []
    for method, times in steps.items():
        for (batch, length), seconds in zip(MEASURED_STEPS, times, strict=True):
            require_possible(f"seconds of a step of {method}", seconds, SECONDS)
            shares.append([part / seconds for part in _work(curves, method, batch, length)])
    if not np.isfinite(shares).all():
        raise SpecError("matmul", "must have points in float32, as the measured steps compute")
    return dict(zip(_LEAST, _fitted(np.array(shares), np.array([*_LEAST.values()])), strict=True))


def _fitted(shares: np.ndarray[Any, Any], least: np.ndarray[Any, Any]) -> list[float]:
    """Return the factors, none below its least, with which the shares of each row add up to 1 best.

    A kind of which there is no work gets the factor of computing.
    """
    free = shares.any(axis=0)
    factors = np.where(free, 0.0, least)
    while free.any():
        rest = 1 - shares[:, ~free] @ factors[~free]
        factors[free] = np.linalg.lstsq(shares[:, free], rest, rcond=None)[0]
        low = free & (factors < least)
        if not low.any():
            break
        factors[low], free = least[low], free & ~low
    return [float(factors[0] if not shares[:, column].any() else value) for column, value in enumerate(factors)]


def _work(curves: Curves, method: str, batch: int, length: int) -> tuple[float, float, float, float]:
    """Return the seconds of computing, adapters, expanding and calls in a measured step, which has no optimizer."""
    plan = FinetunePlan.for_method(method, "calibration", r=MEASURED_RANK, dtype="float32", loss="full")
    model = ModelSpec.from_config(MEASURED_MODEL, name="calibration")
    found = [entry for entry in operations(model, plan, batch=batch, length=length) if entry.during != "update"]
    times = seconds_by_kind(found, curves, plan)
    adapter, expanded = times.pop(Kind.ADAPTER), times.pop(Kind.DEQUANTIZE)
    return sum(times.values()), adapter, expanded, sum(entry.calls for entry in found) * curves.call_seconds
