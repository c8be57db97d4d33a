"""The curves of a card that nobody measured here: its published peaks, times shares fitted to published runs."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from estimator.duration.operations import Kind, Operation, operations
from estimator.duration.step import combined, seconds_by_kind
from specs import FinetunePlan, GpuSpec, ModelSpec
from specs.curves import Curves

_CACHE_MIB = {
    (7, 0): 6.0,
    (7, 5): 4.0,
    (8, 0): 40.0,
    (8, 6): 6.0,
    (8, 9): 72.0,
    (9, 0): 50.0,
    (10, 0): 126.0,
    (12, 0): 96.0,
}
"""Second-level cache of the largest common card of each compute capability, in MiB: NVIDIA's white papers of Volta,
 Turing, Ampere, Ada Lovelace, Hopper and Blackwell."""
_REFERENCE_MIB = 40.0
"""The cache at which the share of the bandwidth is given: an A100's."""

_POINTS = (16, 64, 256, 1024, 4096, 16384, 65536)
"""Tokens at which the curve of matrix products is given; between them it is straight on logarithmic axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which share of a card's published peaks each kind of work reaches, and what a kernel costs to start."""

    matmul: float
    """Of the matrix rate, by products with many rows."""
    half_tokens: float
    """Tokens at which matrix products reach half of that."""
    attention: float
    """Of the matrix rate."""
    memory: float
    """Of the memory bandwidth, by norms, activations, adapters and loss."""
    expansion: float
    """Of the memory bandwidth, by the expansion of 4-bit weights."""
    call_seconds: float
    """Time to start one kernel from Python."""
    cache: float
    """By which power of its second-level cache a card's bandwidth counts for more: what is written there is read again
    without reaching memory."""
    halved: float
    """How much more of their rate cards reach whose units add up in 32 bit at half rate, as a GeForce RTX does: then
    its units hold a product up, not power or memory."""


_FULL_RATE = {(7, 5): 6.0, (8, 6): 3.0, (8, 9): 3.0, (12, 0): 3.0}
"""Matrix rate in 16 bit over the rate in 32 bit, below which a card of that compute capability adds up at half rate: 2
for a GeForce RTX 4090 and an L40, 4 for an L40S of the same chip; NVIDIA's white papers of Turing, Ampere and Ada."""
_FLASH = (8, 0)
"""From which compute capability PyTorch has FlashAttention-2."""
_WITHOUT_FLASH = 0.5
"""Attention without it: FlashAttention-2 is twice as fast as what came before, https://arxiv.org/abs/2307.08691."""


def adds_at_half_rate(gpu: GpuSpec) -> bool:
    """Return whether a card's matrix units are half as fast if they add up in 32 bit, as PyTorch has them do."""
    full = _FULL_RATE.get(gpu.compute_capability or (0, 0), 0.0)
    return bool(gpu.half_tflops and gpu.float32_tflops and gpu.half_tflops / gpu.float32_tflops < full)


def curves_of(gpu: GpuSpec, shares: Shares, *, factor: float = 1.0) -> Curves | None:
    """Return the curves of a card, or None if its bandwidth or every rate is unknown.

    Args:
        gpu: The card.
        shares: The shares of its peaks.
        factor: How many times as long published runs took on this card as the shares say.
    """
    bandwidth = gpu.memory_bandwidth_gb_s
    half = (gpu.half_tflops or 0.0) * (shares.halved if adds_at_half_rate(gpu) else 1.0)
    rates = {"float32": gpu.float32_tflops, "bfloat16": half, "float16": half}
    known = {dtype: rate * 1e12 / factor for dtype, rate in rates.items() if rate}
    if not known or not bandwidth:
        return None
    before_flash = gpu.compute_capability is not None and gpu.compute_capability < _FLASH
    attention = max(known.values()) * shares.attention * (_WITHOUT_FLASH if before_flash else 1.0)
    cached = (_CACHE_MIB.get(gpu.compute_capability or (0, 0), _REFERENCE_MIB) / _REFERENCE_MIB) ** shares.cache
    memory = bandwidth * 1e9 * cached / factor
    return Curves(
        matmul={
            dtype: tuple((t, rate * shares.matmul * t / (t + shares.half_tokens)) for t in _POINTS)
            for dtype, rate in known.items()
        },
        attention_flops=attention,
        moved=memory * shares.memory,
        adapter=memory * shares.memory,
        expanded=memory * shares.expansion,
        eight_bit=EIGHT_BIT_SLOWER,
        call_seconds=shares.call_seconds * factor,
        overlaps=True,
        to_ram=to_ram(gpu),
        source=f"published peaks of {gpu.name}, shares fitted to published runs",
    )


def to_ram(gpu: GpuSpec) -> float:
    """Return the bytes a second between a device and RAM: 0 for a CPU; of an unknown bus, as of the usual slot."""
    if gpu.is_cpu:
        return 0.0
    return gpu.bus_bytes_per_second or replace(gpu, bus=_USUAL_BUS).bus_bytes_per_second or 0.0


_USUAL_BUS = "PCIe 3.0 x16"
"""97 of 100 cards of the catalog have as fast a bus or a faster one."""

SHARES = Shares(
    matmul=0.805,
    half_tokens=132.9,
    attention=1.148,
    memory=0.5237,
    expansion=0.4638,
    call_seconds=1.575e-5,
    cache=0.3351,
    halved=1.291,
)
"""Fitted to the runs of ``assets/speed.csv`` by ``fitting.fitted``; a test fits them again. Attention reaches more than
its rate because the half that a causal mask hides is counted, too."""

FACTORS: Mapping[str, float] = {
    "A100 SXM4 80 GB": 0.998,
    "L40": 0.910,
    "GeForce RTX 4090": 1.048,
    "L40S": 1.052,
    "Tesla T4": 0.995,
}
"""How many times as long the published runs on a card took as the shares say."""

ERROR_WITH_RUNS = 0.065
"""Mean error of the seconds of a pass on those cards."""
ERROR_LEFT_OUT = 0.131
"""Mean error on each of those cards by a fit to the others: what to expect of a card without runs."""

_PROCESSOR_SHARES = Shares(
    matmul=0.65, half_tokens=8.0, attention=0.55, memory=0.35, expansion=0.2, call_seconds=6e-6, cache=0.0, halved=1.0
)
_PROCESSOR_BYTES_PER_FLOP = 1.0
_START_SECONDS = 5.0
"""Of a processor that was not measured: shares of its peak as two cores with AVX-512 reach them, bytes moved for each
operation of the peak, and the time to load the libraries; torch 2.13.0, 2026-11-26."""
ERROR_OF_PROCESSOR = 0.6
"""What to expect of a processor that was not measured: its clock and its units differ."""


def published_curves(gpu: GpuSpec) -> Curves | None:
    """Return the curves of a device by what is published of it; None if too little is."""
    if not gpu.is_cpu:
        return curves_of(gpu, SHARES, factor=FACTORS.get(gpu.name, 1.0))
    if not gpu.float32_tflops:
        return None
    bandwidth = gpu.float32_tflops * 1e3 * _PROCESSOR_BYTES_PER_FLOP
    assumed = replace(gpu, memory_bandwidth_gb_s=bandwidth, half_tflops=gpu.float32_tflops / _CPU_HALF_SLOWER)
    found = curves_of(assumed, _PROCESSOR_SHARES)
    return found and replace(found, overlaps=False, eight_bit=_CPU_EIGHT_BIT_SLOWER, seconds_to_start=_START_SECONDS)


_CPU_HALF_SLOWER, _CPU_EIGHT_BIT_SLOWER = 1.7, 1.3
"""Compared with float32 on the same processor without units for bfloat16; ``advisor.sources.CPU_MEASURED``."""

EIGHT_BIT_SLOWER = 2.5
"""LLM.int8() compared with 16-bit: 2 to 3 times slower in LoRA training on an RTX A5000 (github
bitsandbytes-foundation/bitsandbytes issue 465), 2.5 times on a T4 (https://earino.github.io/applied-deep-learning/site/blog/11_int8_is_slower.html)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """A published run: what ran on which card, and how long one forward and backward pass took."""

    model: ModelSpec
    gpu: GpuSpec
    plan: FinetunePlan
    steps_apart: int
    """Passes for each step of the optimizer."""
    seconds: float
    source: str

    def predicted(self, shares: Shares, *, factor: float = 1.0) -> float:
        """Return the seconds that the shares give for it."""
        curves = curves_of(self.gpu, shares, factor=factor)
        if curves is None:
            return float("inf")
        found = _operations(self.model, self.plan)
        times = seconds_by_kind(found, curves, self.plan)
        apart = (1 - 1 / self.steps_apart) * times[Kind.OPTIMIZER]
        starting = sum(entry.calls for entry in found) * curves.call_seconds
        return combined(sum(times.values()) - apart, starting, overlaps=True)


@functools.lru_cache(maxsize=256)
def _operations(model: ModelSpec, plan: FinetunePlan) -> tuple[Operation, ...]:
    return operations(model, plan)
