"""The sizes of tensors as formulas: the terms that bytes are linear in, and what the allocator makes of them."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MONOMIALS = ("1", "b", "s", "bs", "bss", "ss", "n", "m", "t")
"""The terms that sizes are linear in: batch b, length s, their products, the n = b(s-1) scored positions, the
m = b(s+1) padded labels, and the t = min(n, 4096) positions of one loss tile. Then each once more, times r."""

CHUNK_MONOMIALS = ("c", "bc", "cc", "bcc", "d", "bd", "dd", "bdd", "e", "be", "ee", "bee")
"""The terms of layers that work in chunks of the sequence, after the others and never times r: the c = ceil(s / chunk)
chunks, the d = c + 1 states before, between and after them, the e tokens of the last chunk, and their products."""

ROW_MONOMIALS = ("bb",)
"""The terms of losses that compare each row of a batch with each other one: after all others, never times r."""

COLUMNS = 2 * len(MONOMIALS) + len(CHUNK_MONOMIALS) + len(ROW_MONOMIALS)
"""Entries of a row of ``Tape.sizes``."""

LOSS_TILE_TOKENS = 4096
"""Positions that TRL projects at once; trl.kernels.chunked_logprob, TOKEN_CHUNK_SIZE (trl 1.16)."""

LARGEST_TENSOR_BYTES = 2**46
"""The largest single tensor that is priced: tens of thousands of them still add up within 64 bits."""

ALLOCATION_BYTES = 512
"""The CUDA caching allocator rounds every request up to this; c10/cuda/CUDACachingAllocator.h, kMinBlockSize."""


def basis(batch: int, length: int, rank: int, chunk: int | None = None) -> tuple[int, ...]:
    """Return the values of all monomials at one point, in the order of a row of ``Tape.sizes``.

    Args:
        batch: Sequences.
        length: Tokens of a sequence.
        rank: The adapter's rank.
        chunk: Tokens of a chunk; None for a model without layers that work in chunks.
    """
    scored = batch * (length - 1)
    plain = (
        1,
        batch,
        length,
        batch * length,
        batch * length * length,
        length * length,
        scored,
        batch * (length + 1),
        min(scored, LOSS_TILE_TOKENS),
    )
    chunked = [0] * len(CHUNK_MONOMIALS)
    if chunk is not None:
        chunks = num_chunks(length, chunk)
        parts = (chunks, chunks + 1, length - (chunks - 1) * chunk)
        chunked = [value for part in parts for value in (part, batch * part, part**2, batch * part**2)]
    return (*plain, *(value * rank for value in plain), *chunked, batch * batch)


def num_chunks(length: int, chunk: int) -> int:
    """Return the chunks of a sequence, the last of which may be shorter."""
    return -(-length // chunk)


def rounded(num_bytes: Ints) -> Ints:
    """Return what the caching allocator hands out for requests of these sizes."""
    return np.maximum(-(-num_bytes // ALLOCATION_BYTES), 1) * ALLOCATION_BYTES


def rounded_bytes(num_bytes: int) -> int:
    """Return what the caching allocator hands out for a request of this size."""
    return max(1, -(-num_bytes // ALLOCATION_BYTES)) * ALLOCATION_BYTES


def pinned_bytes(num_bytes: Ints) -> Ints:
    """Return the RAM that pinned tensors of these sizes take: the next power of two.

    Source: pytorch aten/src/ATen/core/CachingHostAllocator.h, ``allocate`` (2.13).
    """
    return 2 ** np.ceil(np.log2(np.maximum(num_bytes, 1))).astype(np.int64)
