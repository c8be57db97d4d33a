"""A replay of PyTorch's CUDA caching allocator: how much it reserves for a sequence of allocations and frees.

Rules and constants: pytorch c10/core/AllocatorConfig.h and c10/cuda/CUDACachingAllocator.cpp (torch 2.13). Compiled by
numba: a step of a large model has tens of thousands of allocations, and a page prices many plans at once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from specs import MIB

Ints = NDArray[np.int64]

SMALL_BYTES = MIB
"""Requests up to this come from the small pool."""
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
"""Requests under ``LARGE_REQUEST_BYTES`` are cut from segments of this size; expandable segments grow by it."""
LARGE_REQUEST_BYTES = 10 * MIB
"""Larger requests get a segment of their own, rounded up to 2 MiB."""
SEGMENT_ROUNDING_BYTES = 2 * MIB
SPLIT_BYTES = MIB
"""The remainder of a large block is split off only if it is larger; in an expandable segment, always."""

EMPTY_CACHE = -1
"""The slot of an event that returns everything unused to the driver, as ``torch.cuda.empty_cache`` does."""

_ADDRESS_SPACE = 1 << 62
"""Bytes that an expandable segment may grow to: more than is ever allocated, or the search for room would not end."""
_SEGMENT_DISTANCE = 1 << 40
"""Bytes between the addresses of other segments; only their order matters."""

_SIZE, _ADDRESS, _SLACK, _BEFORE, _AFTER, _STATE = range(6)
_USED, _FREE, _UNMAPPED = range(3)
_NUM_FREE, _NUM_SPARE, _NUM_BLOCKS, _NUM_SEGMENTS, _RESERVED, _PEAK, _TOTAL_SLACK, _LIMIT, _EXPANDABLE = range(9)


@dataclass(frozen=True, slots=True)
class Events:
    """Allocations and frees in order."""

    slots: Ints
    """The slot that keeps the block of each event, allocated or freed; ``EMPTY_CACHE`` frees the cache."""
    sizes: Ints
    """Bytes in multiples of 512: positive allocates, negative frees."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What the allocator holds."""

    peak_bytes: int
    """The most that was reserved at once."""
    slack_bytes: int
    """What blocks held beyond the bytes requested, at the marked event; PyTorch counts it as allocated."""


class _Pool(NamedTuple):
    """Blocks above 1 MiB: best fit among free blocks, split, merged with free neighbours when freed."""

    blocks: Ints
    """For each block: size, address, slack, the numbers of its neighbours in its segment (-1: none), state."""
    free: Ints
    """Numbers of the free blocks, sorted by size, then address."""
    spare: Ints
    """Numbers that can be used for new blocks."""
    totals: Ints
    """Running totals, indexed by the constants above."""


def reserved(events: Events, *, limit_bytes: int, mark: int, expandable: bool, since: int = 0) -> Reserved:
    """Replay events on an empty device.

    Args:
        events: The allocations and frees.
        limit_bytes: What the driver can give; before exceeding it, the allocator returns what is unused.
        mark: The event before which the slack of blocks is read.
        expandable: Whether segments can grow, PyTorch's ``expandable_segments``.
        since: The event from which the peak counts, as after ``torch.cuda.reset_peak_memory_stats``.
    """
    sizes = events.sizes
    large = (np.abs(sizes) > SMALL_BYTES) | (events.slots == EMPTY_CACHE)
    small = np.cumsum(np.where(large, 0, sizes))
    small_bytes = -(-int(small.max(initial=0)) // SMALL_SEGMENT_BYTES) * SMALL_SEGMENT_BYTES
    chosen = np.flatnonzero(large)
    peak, slack = _replayed(
        events.slots[chosen],
        sizes[chosen],
        np.searchsorted(chosen, np.array([mark, since])),
        int(events.slots.max(initial=0)) + 1,
        np.array([0, 0, 0, 0, 0, 0, 0, limit_bytes - small_bytes, int(expandable)], dtype=np.int64),
    )
    return Reserved(peak_bytes=int(peak) + small_bytes, slack_bytes=int(slack))


@njit(cache=True, nogil=True)
def _replayed(slots: Ints, sizes: Ints, places: Ints, num_slots: int, totals: Ints) -> tuple[int, int]:
    """Return the peak bytes of the large pool and the slack at the mark."""
    capacity = 4 * len(sizes) + 64
    pool = _Pool(
        np.empty((capacity, 6), dtype=np.int64),
        np.empty(capacity, dtype=np.int64),
        np.empty(capacity, dtype=np.int64),
        totals,
    )
    if totals[_EXPANDABLE]:
        pool.blocks[_new_range(pool, _ADDRESS_SPACE), _STATE] = _UNMAPPED
    block_of = np.empty(num_slots, dtype=np.int64)
    slack, mark, since = 0, places[0], places[1]
    for event in range(len(sizes)):
        if event == mark:
            slack = totals[_TOTAL_SLACK]
        if event == since:
            totals[_PEAK] = totals[_RESERVED]
        slot = slots[event]
        if slot < 0:
            _release(pool)
        elif sizes[event] > 0:
            block_of[slot] = _allocate(pool, sizes[event])
        else:
            _free(pool, block_of[slot])
    return totals[_PEAK], slack if mark < len(sizes) else totals[_TOTAL_SLACK]


@njit(cache=True)
def _allocate(pool: _Pool, num_bytes: int) -> int:
    """Return the number of a block of at least this many bytes."""
    blocks, totals = pool.blocks, pool.totals
    position = _position(pool, num_bytes, 0)
    if totals[_EXPANDABLE]:
        block = _grow(pool, num_bytes) if position == totals[_NUM_FREE] else _best_fit(pool, position)
    elif position == totals[_NUM_FREE]:
        block = _reserve_segment(pool, num_bytes)
    else:
        block = pool.free[position]
    _remove(pool, block)
    blocks[block, _STATE] = _USED
    slack = blocks[block, _SIZE] - num_bytes
    if slack > (0 if totals[_EXPANDABLE] else SPLIT_BYTES):
        split = _cut(pool, block, num_bytes)
        blocks[split, _STATE] = _FREE
        _insert(pool, split)
        slack = 0
    blocks[block, _SLACK] = slack
    totals[_TOTAL_SLACK] += slack
    return block


@njit(cache=True)
def _free(pool: _Pool, block: int) -> int:
    """Take a block back and merge it with free neighbours; return the number of the merged block."""
    blocks = pool.blocks
    pool.totals[_TOTAL_SLACK] -= blocks[block, _SLACK]
    blocks[block, _SLACK] = 0
    blocks[block, _STATE] = _FREE
    following = blocks[block, _AFTER]
    if following >= 0 and blocks[following, _STATE] == _FREE:
        _remove(pool, following)
        _merge(pool, block, following)
    previous = blocks[block, _BEFORE]
    if previous >= 0 and blocks[previous, _STATE] == _FREE:
        _remove(pool, previous)
        _merge(pool, previous, block)
        block = previous
    _insert(pool, block)
    return block


@njit(cache=True)
def _reserve_segment(pool: _Pool, num_bytes: int) -> int:
    """Reserve a new segment and return it as one free block."""
    size = LARGE_SEGMENT_BYTES
    if num_bytes >= LARGE_REQUEST_BYTES:
        size = -(-num_bytes // SEGMENT_ROUNDING_BYTES) * SEGMENT_ROUNDING_BYTES
    if pool.totals[_RESERVED] + size > pool.totals[_LIMIT]:
        _release(pool)
    _reserve(pool, size)
    block = _new_range(pool, size)
    pool.blocks[block, _STATE] = _FREE
    _insert(pool, block)
    return block


@njit(cache=True)
def _new_range(pool: _Pool, num_bytes: int) -> int:
    """Return a new block at the start of a new address range."""
    block = _new(pool)
    pool.blocks[block, _SIZE], pool.blocks[block, _SLACK] = num_bytes, 0
    pool.blocks[block, _BEFORE], pool.blocks[block, _AFTER] = -1, -1
    pool.blocks[block, _ADDRESS] = pool.totals[_NUM_SEGMENTS] * _SEGMENT_DISTANCE
    pool.totals[_NUM_SEGMENTS] += 1
    return block


@njit(cache=True)
def _best_fit(pool: _Pool, position: int) -> int:
    """Return the free block to use in an expandable segment: preferably not the last one, which can grow."""
    block = int(pool.free[position])
    for other in range(position + 1, pool.totals[_NUM_FREE]):
        candidate = int(pool.free[other])
        if _growable_bytes(pool, candidate) >= _growable_bytes(pool, block):
            break
        block = candidate
    return block


@njit(cache=True)
def _growable_bytes(pool: _Pool, block: int) -> int:
    """Return the bytes of a free block, including those that it could grow by."""
    after = pool.blocks[block, _AFTER]
    room = pool.blocks[after, _SIZE] if after >= 0 and pool.blocks[after, _STATE] == _UNMAPPED else 0
    return int(pool.blocks[block, _SIZE] + room)


@njit(cache=True)
def _grow(pool: _Pool, num_bytes: int) -> int:
    """Return a free block made by mapping unmapped room, together with the free block before it."""
    blocks, totals = pool.blocks, pool.totals
    if totals[_RESERVED] + num_bytes > totals[_LIMIT]:
        _release(pool)
    block = 0  # the lowest address: it is never merged into another block
    while _room(pool, block) < num_bytes:
        block = blocks[block, _AFTER]
    if blocks[block, _STATE] == _UNMAPPED:
        block = _map(pool, block, min(num_bytes, blocks[block, _SIZE]))
    while blocks[block, _SIZE] < num_bytes:
        following = blocks[block, _AFTER]
        block = _map(pool, following, min(num_bytes - blocks[block, _SIZE], blocks[following, _SIZE]))
    return block


@njit(cache=True)
def _room(pool: _Pool, block: int) -> int:
    """Return the unused bytes that follow from a block on, mapped or not."""
    room = 0
    while block >= 0 and pool.blocks[block, _STATE] != _USED:
        room += pool.blocks[block, _SIZE]
        block = pool.blocks[block, _AFTER]
    return room


@njit(cache=True)
def _map(pool: _Pool, block: int, num_bytes: int) -> int:
    """Map the start of an unmapped block, in whole pages; return the free block that it becomes part of."""
    size = -(-num_bytes // LARGE_SEGMENT_BYTES) * LARGE_SEGMENT_BYTES
    _reserve(pool, size)
    if size < pool.blocks[block, _SIZE]:
        pool.blocks[_cut(pool, block, size), _STATE] = _UNMAPPED
    pool.blocks[block, _SLACK] = 0
    return _free(pool, block)


@njit(cache=True)
def _reserve(pool: _Pool, num_bytes: int) -> None:
    """Take bytes from the driver."""
    totals = pool.totals
    totals[_RESERVED] += num_bytes
    totals[_PEAK] = max(totals[_PEAK], totals[_RESERVED])


@njit(cache=True)
def _release(pool: _Pool) -> None:
    """Return every completely free segment, or every free page of an expandable one, to the driver."""
    blocks, totals = pool.blocks, pool.totals
    for block in pool.free[: totals[_NUM_FREE]].copy():
        if totals[_EXPANDABLE]:
            _unmap(pool, block)
        elif blocks[block, _BEFORE] < 0 and blocks[block, _AFTER] < 0:
            _remove(pool, block)
            totals[_RESERVED] -= blocks[block, _SIZE]
            _drop(pool, block)


@njit(cache=True)
def _unmap(pool: _Pool, block: int) -> None:
    """Unmap the whole pages within a free block of an expandable segment."""
    blocks, totals = pool.blocks, pool.totals
    start = blocks[block, _ADDRESS]
    first = -(-start // LARGE_SEGMENT_BYTES) * LARGE_SEGMENT_BYTES
    end = (start + blocks[block, _SIZE]) // LARGE_SEGMENT_BYTES * LARGE_SEGMENT_BYTES
    if end <= first:
        return
    _remove(pool, block)
    if first > start:
        inner = _cut(pool, block, first - start)
        _insert(pool, block)
        block = inner
    if blocks[block, _SIZE] > end - first:
        remainder = _cut(pool, block, end - first)
        blocks[remainder, _STATE] = _FREE
        _insert(pool, remainder)
    blocks[block, _STATE] = _UNMAPPED
    totals[_RESERVED] -= end - first
    following = blocks[block, _AFTER]
    if following >= 0 and blocks[following, _STATE] == _UNMAPPED:
        _merge(pool, block, following)
    previous = blocks[block, _BEFORE]
    if previous >= 0 and blocks[previous, _STATE] == _UNMAPPED:
        _merge(pool, previous, block)


@njit(cache=True)
def _cut(pool: _Pool, block: int, num_bytes: int) -> int:
    """Split a block after its first bytes; return the number of the second part."""
    blocks = pool.blocks
    cut = _new(pool)
    following = blocks[block, _AFTER]
    blocks[cut, _SIZE], blocks[cut, _SLACK] = blocks[block, _SIZE] - num_bytes, 0
    blocks[cut, _ADDRESS] = blocks[block, _ADDRESS] + num_bytes
    blocks[cut, _BEFORE], blocks[cut, _AFTER] = block, following
    blocks[block, _SIZE], blocks[block, _AFTER] = num_bytes, cut
    if following >= 0:
        blocks[following, _BEFORE] = cut
    return cut


@njit(cache=True)
def _merge(pool: _Pool, block: int, following: int) -> None:
    """Merge a block with the neighbour after it."""
    blocks = pool.blocks
    beyond = blocks[following, _AFTER]
    blocks[block, _SIZE] += blocks[following, _SIZE]
    blocks[block, _AFTER] = beyond
    if beyond >= 0:
        blocks[beyond, _BEFORE] = block
    _drop(pool, following)


@njit(cache=True)
def _position(pool: _Pool, num_bytes: int, address: int) -> int:
    """Return the position of a block of this size and address in the sorted list of free blocks."""
    blocks, free = pool.blocks, pool.free
    low, high = 0, pool.totals[_NUM_FREE]
    while low < high:
        middle = (low + high) // 2
        size = blocks[free[middle], _SIZE]
        if size < num_bytes or (size == num_bytes and blocks[free[middle], _ADDRESS] < address):
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def _insert(pool: _Pool, block: int) -> None:
    """Add a block to the free blocks."""
    free, num_free = pool.free, pool.totals[_NUM_FREE]
    position = _position(pool, pool.blocks[block, _SIZE], pool.blocks[block, _ADDRESS])
    for index in range(num_free, position, -1):
        free[index] = free[index - 1]
    free[position] = block
    pool.totals[_NUM_FREE] = num_free + 1


@njit(cache=True)
def _remove(pool: _Pool, block: int) -> None:
    """Remove a block from the free blocks."""
    free, num_free = pool.free, pool.totals[_NUM_FREE]
    position = _position(pool, pool.blocks[block, _SIZE], pool.blocks[block, _ADDRESS])
    for index in range(position, num_free - 1):
        free[index] = free[index + 1]
    pool.totals[_NUM_FREE] = num_free - 1


@njit(cache=True)
def _new(pool: _Pool) -> int:
    """Return an unused block number."""
    totals = pool.totals
    if totals[_NUM_SPARE]:
        totals[_NUM_SPARE] -= 1
        return int(pool.spare[totals[_NUM_SPARE]])
    totals[_NUM_BLOCKS] += 1
    return int(totals[_NUM_BLOCKS] - 1)


@njit(cache=True)
def _drop(pool: _Pool, block: int) -> None:
    """Mark a block number as unused."""
    pool.spare[pool.totals[_NUM_SPARE]] = block
    pool.totals[_NUM_SPARE] += 1
