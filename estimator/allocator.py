"""PyTorch's CUDA caching allocator, replayed: how much it reserves for a sequence of allocations and frees.

Rules and constants: pytorch c10/core/AllocatorConfig.h and c10/cuda/CUDACachingAllocator.cpp (torch 2.13).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from specs import MIB

SMALL_BYTES = MIB
"""Requests up to this come from the small pool."""
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
"""What requests under ``LARGE_REQUEST_BYTES`` are cut from."""
LARGE_REQUEST_BYTES = 10 * MIB
"""Larger requests get a segment of their own, rounded up to 2 MiB."""
SEGMENT_ROUNDING_BYTES = 2 * MIB
SPLIT_BYTES = MIB
"""A rest of a large block up to this is not split off."""


class LargePool:
    """Blocks above 1 MiB: best fit among free blocks, split, merged with free neighbours when freed."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self.peak_bytes = 0
        self._size: list[int] = []
        self._before: list[int] = []
        self._after: list[int] = []
        self._is_free: list[bool] = []
        self._free: list[tuple[int, int]] = []

    def take(self, num_bytes: int) -> int:
        """Return the number of a block of at least so many bytes."""
        free = self._free
        position = bisect_left(free, (num_bytes, -1))
        if position < len(free):
            size, block = free.pop(position)
        else:
            size = segment_bytes(num_bytes)
            self.reserved_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
            block = self._new(size, -1, -1)
        self._is_free[block] = False
        rest = size - num_bytes
        if rest > SPLIT_BYTES:
            following = self._after[block]
            split = self._new(rest, block, following)
            if following >= 0:
                self._before[following] = split
            self._after[block] = split
            self._size[block] = num_bytes
            insort(free, (rest, split))
        return block

    def give(self, block: int) -> None:
        """Take a block back."""
        size = self._size
        following, before = self._after[block], self._before[block]
        if following >= 0 and self._is_free[following]:
            self._remove(following)
            size[block] += size[following]
            self._link(block, self._after[following])
        if before >= 0 and self._is_free[before]:
            self._remove(before)
            size[before] += size[block]
            self._link(before, self._after[block])
            block = before
        self._is_free[block] = True
        insort(self._free, (size[block], block))

    def empty_cache(self) -> None:
        """Return to the driver every segment that is wholly free."""
        for size, block in list(self._free):
            if self._before[block] < 0 and self._after[block] < 0:
                self._remove(block)
                self._is_free[block] = False
                self.reserved_bytes -= size

    def _new(self, size: int, before: int, after: int) -> int:
        self._size.append(size)
        self._before.append(before)
        self._after.append(after)
        self._is_free.append(True)
        return len(self._size) - 1

    def _link(self, block: int, following: int) -> None:
        self._after[block] = following
        if following >= 0:
            self._before[following] = block

    def _remove(self, block: int) -> None:
        del self._free[bisect_left(self._free, (self._size[block], block))]


def segment_bytes(num_bytes: int) -> int:
    """Return the segment that the allocator asks the driver for to serve a large request."""
    if num_bytes < LARGE_REQUEST_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-num_bytes // SEGMENT_ROUNDING_BYTES) * SEGMENT_ROUNDING_BYTES


def small_reserved_bytes(num_bytes: int) -> int:
    """Return the segments that hold so many bytes of small blocks."""
    return -(-num_bytes // SMALL_SEGMENT_BYTES) * SMALL_SEGMENT_BYTES


def unsplit_bytes(num_bytes: int) -> int:
    """Return a request rounded up to 2 MiB; expandable segments hold large blocks in pages of that size."""
    return -(-num_bytes // SEGMENT_ROUNDING_BYTES) * SEGMENT_ROUNDING_BYTES


def reserved_for(pool: LargePool, sizes: Iterable[int]) -> None:
    """Place tensors that stay for good."""
    for size in sizes:
        if size > SMALL_BYTES:
            pool.take(size)
