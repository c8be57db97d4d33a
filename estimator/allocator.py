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

# Free blocks are kept sorted by size, then by number, as one integer each: integers compare faster than tuples.
_NUMBER_BITS = 24
_NUMBERS = 1 << _NUMBER_BITS
_NUMBER_MASK = _NUMBERS - 1


class LargePool:
    """Blocks above 1 MiB: best fit among free blocks, split, merged with free neighbours when freed."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Take the bytes that the driver has; beyond them wholly free segments go back first."""
        self._limit = limit_bytes
        self.reserved_bytes = 0
        self.peak_bytes = 0
        self.rest_bytes = 0
        """What living blocks hold beyond their requests; PyTorch counts it as allocated."""
        self._size: list[int] = []
        self._rest: list[int] = []
        self._before: list[int] = []
        self._after: list[int] = []
        self._is_free: list[bool] = []
        self._free: list[int] = []
        self._spare: list[int] = []

    def take(self, num_bytes: int) -> int:
        """Return the number of a block of at least so many bytes."""
        free = self._free
        position = bisect_left(free, num_bytes * _NUMBERS)
        if position < len(free):
            entry = free.pop(position)
            size, block = entry >> _NUMBER_BITS, entry & _NUMBER_MASK
        else:
            size, block = self._segment(num_bytes)
        self._is_free[block] = False
        rest = size - num_bytes
        if rest > SPLIT_BYTES:
            self._split(block, num_bytes, rest)
        else:
            self._rest[block] = rest
            self.rest_bytes += rest
        return block

    def give(self, block: int) -> None:
        """Take a block back."""
        size, after, before, is_free, free = self._size, self._after, self._before, self._is_free, self._free
        rest = self._rest[block]
        if rest:
            self.rest_bytes -= rest
            self._rest[block] = 0
        following = after[block]
        if following >= 0 and is_free[following]:
            del free[bisect_left(free, size[following] * _NUMBERS + following)]
            size[block] += size[following]
            after[block] = beyond = after[following]
            if beyond >= 0:
                before[beyond] = block
            self._spare.append(following)
        previous = before[block]
        if previous >= 0 and is_free[previous]:
            del free[bisect_left(free, size[previous] * _NUMBERS + previous)]
            size[previous] += size[block]
            after[previous] = beyond = after[block]
            if beyond >= 0:
                before[beyond] = previous
            self._spare.append(block)
            block = previous
        is_free[block] = True
        insort(free, size[block] * _NUMBERS + block)

    def release(self) -> None:
        """Give every wholly free segment back to the driver."""
        kept = []
        for entry in self._free:
            size, block = entry >> _NUMBER_BITS, entry & _NUMBER_MASK
            if self._before[block] < 0 and self._after[block] < 0:
                self.reserved_bytes -= size
                self._is_free[block] = False
            else:
                kept.append(entry)
        self._free[:] = kept

    def _segment(self, num_bytes: int) -> tuple[int, int]:
        """Return the size and the number of a block that is a new segment."""
        size = segment_bytes(num_bytes)
        if self._limit is not None and self.reserved_bytes + size > self._limit:
            self.release()
        self.reserved_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
        block = self._new()
        self._size[block], self._before[block], self._after[block] = size, -1, -1
        return size, block

    def _split(self, block: int, num_bytes: int, rest: int) -> None:
        """Make the end of a block a free block of its own."""
        after = self._after
        split, following = self._new(), after[block]
        self._size[block], self._size[split] = num_bytes, rest
        self._before[split], after[split], after[block] = block, following, split
        self._is_free[split] = True
        if following >= 0:
            self._before[following] = split
        insort(self._free, rest * _NUMBERS + split)

    def _new(self) -> int:
        """Return an unused number."""
        if self._spare:
            return self._spare.pop()
        for column in (self._size, self._rest, self._before, self._after):
            column.append(0)
        self._is_free.append(False)
        return len(self._size) - 1


class Allocator:
    """Both pools; of the small one only the sum is followed, for its blocks hardly fragment."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Take the bytes that the driver has."""
        self.large = LargePool(limit_bytes)
        self._small = 0
        self._small_peak = 0

    @property
    def peak_reserved_bytes(self) -> int:
        """Most that was reserved so far."""
        return self.large.peak_bytes + small_reserved_bytes(self._small_peak)

    def keep(self, num_bytes: int, count: int = 1) -> None:
        """Allocate tensors for good."""
        if num_bytes > SMALL_BYTES:
            for _ in range(count):
                self.large.take(num_bytes)
        else:
            self.grow_small(num_bytes * count)

    def grow_small(self, num_bytes: int, peak_bytes: int = 0) -> None:
        """Let the small blocks grow by so many bytes, with so many more for a moment."""
        self._small_peak = max(self._small_peak, self._small + max(num_bytes, peak_bytes))
        self._small += num_bytes

    def passing(self, sizes: Iterable[int]) -> None:
        """Allocate tensors, all of them alive at once, and free them."""
        taken = [self.large.take(size) for size in sizes if size > SMALL_BYTES]
        for block in taken:
            self.large.give(block)


def segment_bytes(num_bytes: int) -> int:
    """Return the segment that the allocator asks the driver for to serve a large request."""
    if num_bytes < LARGE_REQUEST_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-num_bytes // SEGMENT_ROUNDING_BYTES) * SEGMENT_ROUNDING_BYTES


def small_reserved_bytes(num_bytes: int) -> int:
    """Return the segments that hold so many bytes of small blocks."""
    return -(-num_bytes // SMALL_SEGMENT_BYTES) * SMALL_SEGMENT_BYTES
