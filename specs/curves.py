"""How fast one device is: a rate for each kind of work, measured on it or derived from what is published."""

import math
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self, TypeGuard

from specs.errors import SpecError

MEASURED_MODEL: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 1024,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
)
"""The small model whose whole steps are measured: twelve layers of the demo model, which no cache holds."""
MEASURED_METHODS = ("lora", "qlora", "full")
"""How it is trained there."""
MEASURED_STEPS = ((1, 16), (2, 72))
"""Batch and length of those steps."""
MEASURED_RANK = 8
"""Rank of their adapters, and of the narrow products measured alone."""

RATE, SECONDS, FACTOR = (1e4, 1e18), (1e-10, 1e5), (1e-3, 1e3)
"""The least and the most that a figure of a device can be: operations or bytes a second, seconds of a call, a step or a
start, and how many times as long something takes. A choice: the fastest card of ``assets/gpus.json`` multiplies at some
1e15 operations a second."""
_TOKENS = (1e-3, 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The speed of one device by kind of work."""

    matmul: Mapping[str, tuple[tuple[float, float], ...]]
    """For each dtype, what matrix products reach: points of tokens and FLOP/s, rising in tokens."""
    attention_flops: float
    """FLOP/s of attention, counted without a causal mask."""
    moved: float
    """Bytes a second that norms, activations and the loss read and write."""
    adapter: float
    """Bytes a second around the narrow products of an adapter."""
    expanded: float
    """Bytes a second while 4-bit weights are expanded."""
    eight_bit: float = 1.0
    """How many times as long matrix products take with 8-bit weights."""
    call_seconds: float
    """Time to start one kernel."""
    overlaps: bool
    """Whether kernels are started while others still run, as on a GPU."""
    seconds_to_start: float = 0.0
    """Time until a worker has loaded its libraries."""
    decoding: float = 0.0
    """Bytes of weights a second while an answer is written token by token; 0 takes ``moved``."""
    to_ram: float = 0.0
    """Bytes a second between the device and RAM; 0 where both are one."""
    corrected_by: float = 1.0
    """By how many times as long as the figures alone say finished runs took; rates and calls hold it already."""
    source: str = ""
    """Where the figures come from."""

    def __post_init__(self) -> None:
        """Refuse figures that no device has, such as a speed of 0, and points that do not rise in tokens."""
        for name, value, possible in self._figures():
            require_possible(name, value, possible)
        for name, possible in {"seconds_to_start": SECONDS, "decoding": RATE, "to_ram": RATE}.items():
            if getattr(self, name) != 0:
                require_possible(name, getattr(self, name), possible)
        for dtype, points in self.matmul.items():
            tokens = [at for at, _ in points]
            if not tokens or tokens != sorted(set(tokens)):
                raise SpecError(f"matmul in {dtype}", "must have points that rise in tokens", tokens)

    def _figures(self) -> Iterator[tuple[str, object, tuple[float, float]]]:
        """Yield every figure that has to be above 0, by name, with what a device can have."""
        yield from ((name, getattr(self, name), RATE) for name in ("attention_flops", "moved", "adapter", "expanded"))
        yield from ((name, getattr(self, name), FACTOR) for name in ("eight_bit", "corrected_by"))
        yield "call_seconds", self.call_seconds, SECONDS
        for dtype, points in self.matmul.items():
            for tokens, rate in points:
                yield f"tokens of matmul in {dtype}", tokens, _TOKENS
                yield f"matmul in {dtype}", rate, RATE

    def matmul_flops(self, tokens: float, dtype: str) -> float | None:
        """Return the FLOP/s of matrix products with so many rows; None if the dtype is unknown."""
        points = self.matmul.get(dtype)
        return _between(points, tokens) if points else None

    def corrected(self, factor: float) -> Self:
        """Return the curves of a device on which everything takes ``factor`` times as long."""
        return replace(
            self,
            matmul={dtype: tuple((at, rate / factor) for at, rate in points) for dtype, points in self.matmul.items()},
            attention_flops=self.attention_flops / factor,
            moved=self.moved / factor,
            adapter=self.adapter / factor,
            expanded=self.expanded / factor,
            call_seconds=self.call_seconds * factor,
            corrected_by=self.corrected_by * factor,
        )

    def __hash__(self) -> int:
        """Hash without the table of matrix products, which is a mapping."""
        return hash((self.attention_flops, self.moved, self.call_seconds, self.source))


def is_positive(value: object) -> TypeGuard[float]:
    """Return whether a value is a number above 0 that can be computed with: not infinite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def require_possible(name: str, value: object, possible: tuple[float, float]) -> None:
    """Refuse a figure that no device has.

    Raises:
        SpecError: If it is no number, or out of bounds.
    """
    least, most = possible
    if not is_positive(value) or not least <= value <= most:
        raise SpecError(name, f"must be a number from {least:g} to {most:g}", value)


def _between(points: tuple[tuple[float, float], ...], tokens: float) -> float:
    """Return the value between two points, straight on logarithmic axes; outside them, that of the nearest."""
    number = bisect_left([at for at, _ in points], tokens)
    if number in {0, len(points)}:
        return points[min(number, len(points) - 1)][1]
    (left, low), (right, high) = points[number - 1], points[number]
    share = math.log(tokens / left) / math.log(right / left)
    return float(low * (high / low) ** share)
