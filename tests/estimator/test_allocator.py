import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.allocator import Allocator, LargePool, segment_bytes, small_reserved_bytes
from specs import MIB


@pytest.mark.parametrize(
    ("request_mib", "segment_mib"),
    [
        pytest.param(1.5, 20, id="a medium request comes from 20 MiB"),
        pytest.param(9.9, 20, id="up to 10 MiB"),
        pytest.param(10, 10, id="larger ones get their own segment"),
        pytest.param(10.5, 12, id="rounded up to 2 MiB"),
        pytest.param(593.5, 594, id="such as logits"),
    ],
)
def test_segments_have_the_sizes_of_pytorchs_allocator(request_mib, segment_mib):
    assert segment_bytes(int(request_mib * MIB)) == segment_mib * MIB


def test_small_blocks_come_in_segments_of_two_mebibytes():
    assert [small_reserved_bytes(size) for size in (0, 512, 2 * MIB, 2 * MIB + 1)] == [0, 2 * MIB, 2 * MIB, 4 * MIB]


def test_a_freed_block_is_used_again():
    pool = LargePool()
    pool.give(pool.take(100 * MIB))
    pool.take(60 * MIB)
    pool.take(40 * MIB)
    assert pool.peak_bytes == 100 * MIB


def test_the_smallest_block_that_fits_is_taken():
    pool = LargePool()
    large, small = pool.take(100 * MIB), pool.take(50 * MIB)
    pool.give(large)
    pool.give(small)
    pool.take(40 * MIB)
    pool.take(100 * MIB)
    assert pool.peak_bytes == 150 * MIB


def test_a_rest_of_a_mebibyte_stays_with_its_block():
    pool = LargePool()
    pool.take(593 * MIB + MIB // 2)
    assert pool.rest_bytes == MIB // 2


def test_neighbours_merge_when_freed():
    pool = LargePool()
    blocks = [pool.take(5 * MIB) for _ in range(4)]
    assert pool.peak_bytes == 20 * MIB
    for block in (blocks[0], blocks[2], blocks[1], blocks[3]):
        pool.give(block)
    pool.take(20 * MIB)
    assert pool.peak_bytes == 20 * MIB


def test_free_segments_go_back_before_the_card_is_full():
    pool = LargePool(limit_bytes=150 * MIB)
    pool.give(pool.take(100 * MIB))
    pool.take(120 * MIB)
    assert pool.reserved_bytes == 120 * MIB
    assert pool.peak_bytes == 120 * MIB


@given(st.lists(st.tuples(st.integers(MIB + 1, 64 * MIB), st.booleans()), max_size=60))
def test_reserved_memory_holds_what_is_allocated(requests):
    pool, living = LargePool(), {}
    for size, frees in requests:
        block = pool.take(size)
        assert block not in living
        living[block] = size
        if frees:
            oldest = next(iter(living))
            pool.give(oldest)
            del living[oldest]
        assert sum(living.values()) + pool.rest_bytes <= pool.reserved_bytes <= pool.peak_bytes
    for block in living:
        pool.give(block)
    pool.release()
    assert pool.reserved_bytes == pool.rest_bytes == 0


def test_small_and_large_requests_are_kept_apart():
    allocator = Allocator()
    allocator.keep(MIB, count=3)
    allocator.keep(30 * MIB)
    assert allocator.peak_reserved_bytes == 34 * MIB
