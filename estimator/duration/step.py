"""How long one step takes: its operations by the speed of a device."""

from collections.abc import Mapping, Sequence

from estimator.duration.operations import Kind, Operation
from specs import FinetunePlan
from specs.curves import Curves

_OVERLAP = 3.0
"""How sharply the longer of computing and starting kernels decides on a GPU: 1 adds both, infinity takes the longer."""


def seconds_by_kind(found: Sequence[Operation], curves: Curves, plan: FinetunePlan) -> dict[Kind, float]:
    """Return the time that each kind of work takes by itself, without the time to start kernels."""
    times: dict[Kind, float] = dict.fromkeys(Kind, 0.0)
    for entry in found:
        times[entry.kind] += _seconds(entry, curves, plan)
    return times


def step_seconds(found: Sequence[Operation], curves: Curves, plan: FinetunePlan) -> float:
    """Return the time of a step's operations on a device: computing, and starting kernels."""
    return combined(
        sum(seconds_by_kind(found, curves, plan).values()),
        sum(entry.calls for entry in found) * curves.call_seconds,
        overlaps=curves.overlaps,
    )


def combined(computing: float, starting: float, *, overlaps: bool) -> float:
    """Return the time of computing and of starting kernels together."""
    if not overlaps:
        return computing + starting
    return float((computing**_OVERLAP + starting**_OVERLAP) ** (1 / _OVERLAP))


def _seconds(entry: Operation, curves: Curves, plan: FinetunePlan) -> float:
    if entry.kind is Kind.MATMUL:
        return _matmul_seconds(entry, curves, plan)
    if entry.kind is Kind.ATTENTION:
        return entry.flops / (curves.attention_flops * _float32_share(entry, curves, plan))
    if entry.kind is Kind.TRANSFER:
        return entry.moved_bytes / curves.to_ram if curves.to_ram else 0.0
    if entry.kind is Kind.DEQUANTIZE and plan.load_in_8bit:
        return 0.0  # the products themselves are slower
    rates: Mapping[Kind, float] = {Kind.ADAPTER: curves.adapter, Kind.DEQUANTIZE: curves.expanded}
    moved = entry.moved_bytes if curves.overlaps else entry.unfused_bytes or entry.moved_bytes
    return moved / rates.get(entry.kind, curves.moved)


def _float32_share(entry: Operation, curves: Curves, plan: FinetunePlan) -> float:
    """Return how fast a device computes in 32 bit where an operation does, compared with the dtype of the plan."""
    wide, usual = (curves.matmul_flops(entry.rows, dtype) for dtype in ("float32", plan.compute_dtype))
    return min(1.0, wide / usual) if entry.in_float32 and wide and usual else 1.0


def _matmul_seconds(entry: Operation, curves: Curves, plan: FinetunePlan) -> float:
    """Return the time of matrix products: at least that of reading the weights."""
    dtype = "float32" if entry.in_float32 else plan.compute_dtype
    rate = curves.matmul_flops(entry.rows, dtype) or curves.matmul_flops(entry.rows, plan.compute_dtype)
    if not rate:
        return float("inf")
    slower = curves.eight_bit if plan.load_in_8bit else 1.0
    return slower * max(entry.flops / rate, entry.moved_bytes / curves.moved)
