"""Quantization of a real weight matrix, as bitsandbytes and the textbooks do it. Pure numpy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=np.float32,
)
"""Quantiles of the normal distribution with an exact zero: Dettmers et al. 2023, QLoRA, appendix E,
https://arxiv.org/abs/2305.14314; as in bitsandbytes 0.50.2, ``functional.get_4bit_type``."""

FP4: Array = np.array([-12, -8, -6, -4, -3, -2, -0.0625, 0, 0.0625, 2, 3, 4, 6, 8, 12], dtype=np.float32) / np.float32(
    12
)
"""One sign, two exponent and one mantissa bit, scaled to 1: bitsandbytes 0.50.2, ``functional.get_4bit_type``."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix rounded to a few values and converted back."""

    restored: Array
    bits_per_weight: float
    """Bits of the codes and of their constants, averaged over all weights."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to quantize."""

    label: str
    summary: str
    apply: Callable[[Array, int], Quantized]
    """Takes the weights and the number of weights that share a constant."""


def symmetric(weights: Array, block: int, *, bits: int, share: float = 1.0) -> Quantized:
    """Round to whole multiples of ``share`` x largest magnitude / (2^(bits-1) - 1); anything beyond is clipped."""
    blocks = _blocks(weights, block)
    most = 2 ** (bits - 1) - 1
    scale = _nonzero(np.abs(blocks).max(axis=1, keepdims=True) * share / most)
    codes = np.clip(np.round(blocks / scale), -most, most)
    return Quantized(_shaped(codes * scale, weights), bits + 32 / block)


def asymmetric(weights: Array, block: int, *, bits: int) -> Quantized:
    """Spread the codes from the smallest to the largest value; a zero point marks the code that stands for 0."""
    blocks = _blocks(weights, block)
    low, high = np.minimum(blocks.min(axis=1, keepdims=True), 0), np.maximum(blocks.max(axis=1, keepdims=True), 0)
    most = 2**bits - 1
    scale = _nonzero((high - low) / most)
    zero_point = np.round(-low / scale)
    codes = np.clip(np.round(blocks / scale) + zero_point, 0, most)
    return Quantized(_shaped((codes - zero_point) * scale, weights), bits + (32 + bits) / block)


def percentile(weights: Array, block: int, *, bits: int, keep: float = 99.9) -> Quantized:
    """Clip the largest magnitudes so that the rest get finer steps."""
    blocks = _blocks(weights, block)
    most = 2 ** (bits - 1) - 1
    scale = _nonzero(np.percentile(np.abs(blocks), keep, axis=1, keepdims=True).astype(np.float32) / most)
    codes = np.clip(np.round(blocks / scale), -most, most)
    return Quantized(_shaped(codes * scale, weights), bits + 32 / block)


def least_error(weights: Array, block: int, *, bits: int) -> Quantized:
    """Try clipping at 100% down to 50% of the largest magnitude and keep the least squared error of each block."""
    blocks = _blocks(weights, block)
    best, best_error = blocks, np.full((len(blocks), 1), np.inf, dtype=np.float32)
    for share in np.linspace(1.0, 0.5, 11):
        tried = _blocks(symmetric(weights, block, bits=bits, share=float(share)).restored, block)
        error = ((tried - blocks) ** 2).mean(axis=1, keepdims=True)
        best = np.where(error < best_error, tried, best)
        best_error = np.minimum(error, best_error)
    return Quantized(_shaped(best, weights), bits + 32 / block)


def codebook(weights: Array, block: int, *, values: Array, double: bool = False) -> Quantized:
    """Scale each block to [-1, 1] by its largest magnitude and take the nearest of a list of values."""
    blocks = _blocks(weights, block)
    scale = _nonzero(np.abs(blocks).max(axis=1, keepdims=True))
    if double:
        scale = _nonzero(double_quantized(scale))
    borders = (values[1:] + values[:-1]) / 2
    restored = values[np.searchsorted(borders, blocks / scale)] * scale
    return Quantized(_shaped(restored, weights), 4 + constant_bits(block, double=double))


def double_quantized(constants: Array) -> Array:
    """Return the constants after quantizing them in turn: mean subtracted, 8 bits each, 256 per block."""
    mean = constants.mean()
    return symmetric(constants - mean, 256, bits=8).restored + mean


def constant_bits(block: int, *, double: bool) -> float:
    """Return the bits that the quantization constants add to each weight.

    Source:
        Dettmers et al. 2023, QLoRA, section 3: 32/64 = 0.5 bit, and 8/64 + 32/(64 x 256) = 0.127 bit under double
        quantization.
    """
    return 8 / block + 32 / (block * 256) if double else 32 / block


SCHEMES: Mapping[str, Scheme] = {
    "int8": Scheme(
        "INT8, symmetric", "255 even steps around zero.", lambda weights, block: symmetric(weights, block, bits=8)
    ),
    "int8-zero-point": Scheme(
        "INT8, zero point",
        "256 even steps from the smallest to the largest value.",
        lambda weights, block: asymmetric(weights, block, bits=8),
    ),
    "int4": Scheme(
        "INT4, symmetric", "15 even steps around zero.", lambda weights, block: symmetric(weights, block, bits=4)
    ),
    "int4-zero-point": Scheme(
        "INT4, zero point",
        "16 even steps from the smallest to the largest value.",
        lambda weights, block: asymmetric(weights, block, bits=4),
    ),
    "int4-percentile": Scheme(
        "INT4, 99.9th percentile",
        "The largest 0.1% are clipped, so the rest get finer steps.",
        lambda weights, block: percentile(weights, block, bits=4),
    ),
    "int4-mse": Scheme(
        "INT4, least squared error",
        "Each block is clipped where its squared error is least.",
        lambda weights, block: least_error(weights, block, bits=4),
    ),
    "fp4": Scheme(
        "FP4",
        "15 values of a tiny floating-point number, finest near zero.",
        lambda weights, block: codebook(weights, block, values=FP4),
    ),
    "nf4": Scheme(
        "NF4",
        "16 values that split a normal distribution evenly.",
        lambda weights, block: codebook(weights, block, values=NF4),
    ),
    "nf4-double": Scheme(
        "NF4, double quantization",
        "Same as NF4, but the constants are quantized too.",
        lambda weights, block: codebook(weights, block, values=NF4, double=True),
    ),
}
"""Every scheme by name."""


def error(weights: Array, quantized: Quantized) -> float:
    """Return the root-mean-square error over the root-mean-square weight."""
    return float(np.sqrt(np.mean((weights - quantized.restored) ** 2) / np.mean(weights**2)))


def _blocks(weights: Array, block: int) -> Array:
    """Return the weights as one block per row; the last row is padded with its own last value."""
    flat = weights.reshape(-1)
    missing = -len(flat) % block
    return np.pad(flat, (0, missing), mode="edge").reshape(-1, block)


def _shaped(blocks: Array, like: Array) -> Array:
    return blocks.reshape(-1)[: like.size].reshape(like.shape).astype(np.float32)


def _nonzero(scale: Array) -> Array:
    return np.where(scale == 0, np.float32(1), scale).astype(np.float32)
