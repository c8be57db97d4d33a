"""From what a machine's measurements say to its curves: single kinds of work, held against whole small steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from estimator.duration.operations import operations
from estimator.duration.step import seconds_by_kind
from specs import FinetunePlan, ModelSpec, SpecError
from specs.curves import MEASURED_MODEL, MEASURED_RANK, MEASURED_STEPS, Curves, is_positive

_EIGHT_BIT_SLOWER = {"cpu": 1.3, "cuda": 2.5}
"""8-bit products compared with plain ones: SmolLM2-135M on two cores, 2 x 128 tokens, 1.22 s against 0.94 s (torch
2.13.0, bitsandbytes 0.50.2, 2026-11-22); on a GPU see ``published.EIGHT_BIT_SLOWER``."""


def curves_from(found: Mapping[str, Any], device: str) -> Curves:
    """Return the curves of a device from the answer of ``trainer.worker.calibrating``.

    Whole steps take longer than the sum of their kinds: caches are cold, and Python does more than start kernels. Both
    are fitted to the measured steps: a factor on all rates, and the time of a call.

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
    factor, call_seconds = _closed(single, found["steps"])
    return replace(
        single,
        matmul={dtype: tuple((t, rate / factor) for t, rate in points) for dtype, points in single.matmul.items()},
        attention_flops=single.attention_flops / factor,
        moved=single.moved / factor,
        adapter=single.adapter / factor,
        expanded=single.expanded / factor,
        call_seconds=call_seconds,
    )


def _closed(curves: Curves, steps: Mapping[str, list[float]]) -> tuple[float, float]:
    """Return the factor on computing and the seconds of a call with which the measured steps come out."""
    left: list[tuple[float, float]] = []
    for method, times in steps.items():
        for (batch, length), seconds in zip(MEASURED_STEPS, times, strict=True):
            if not is_positive(seconds):
                raise SpecError(f"steps of {method}", "must take more than 0 s", seconds)
            computing, calls = _work(curves, method, batch, length)
            left.append((computing / seconds, calls * curves.call_seconds / seconds))
    if not np.isfinite(left).all():
        raise SpecError("matmul", "must have points in float32, as the measured steps compute")
    factor, more = np.linalg.lstsq(np.array(left), np.ones(len(left)), rcond=None)[0]
    return max(float(factor), 0.5), max(float(more), 1.0) * curves.call_seconds


def _work(curves: Curves, method: str, batch: int, length: int) -> tuple[float, float]:
    """Return the seconds of computing and the number of calls of a measured step, which has no optimizer."""
    plan = FinetunePlan.for_method(method, "calibration", r=MEASURED_RANK, dtype="float32", loss="full")
    model = ModelSpec.from_config(MEASURED_MODEL, name="calibration")
    found = [entry for entry in operations(model, plan, batch=batch, length=length) if entry.during != "update"]
    return sum(seconds_by_kind(found, curves, plan).values()), sum(entry.calls for entry in found)
