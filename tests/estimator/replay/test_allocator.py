import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.replay.allocator import EMPTY_CACHE, Events, reserved
from specs import MIB

PLENTY = 1 << 45


def replayed(*events, limit_mib=None, mark=None, expandable=False):
    """Replay (slot, MiB) pairs: a positive size allocates, a negative one frees what the slot holds."""
    slots = np.array([slot for slot, _ in events], dtype=np.int64)
    sizes = np.array([round(size * MIB) // 512 * 512 for _, size in events], dtype=np.int64)
    limit = PLENTY if limit_mib is None else limit_mib * MIB
    mark = len(events) if mark is None else mark
    return reserved(Events(slots=slots, sizes=sizes), limit_bytes=limit, mark=mark, expandable=expandable)


def peak_mib(*events, **circumstances):
    return replayed(*events, **circumstances).peak_bytes / MIB


@pytest.mark.parametrize(
    ("request_mib", "segment_mib"),
    [
        pytest.param(1.5, 20, id="a medium request comes from 20 MiB"),
        pytest.param(9.9, 20, id="up to 10 MiB"),
        pytest.param(10, 10, id="larger ones get their own segment"),
        pytest.param(10.5, 12, id="rounded up to 2 MiB"),
        pytest.param(593.5, 594, id="such as logits"),
        pytest.param(1, 2, id="small ones come from 2 MiB"),
    ],
)
def test_segments_have_the_sizes_of_pytorchs_allocator(request_mib, segment_mib):
    assert peak_mib((0, request_mib)) == segment_mib


def test_nothing_reserves_nothing():
    assert peak_mib() == 0


def test_a_freed_block_is_used_again():
    assert peak_mib((0, 100), (0, -100), (0, 60), (1, 40)) == 100


def test_the_smallest_block_that_fits_is_taken():
    assert peak_mib((0, 100), (1, 50), (0, -100), (1, -50), (2, 40), (3, 100)) == 150


def test_a_remainder_of_a_mebibyte_stays_with_its_block():
    assert replayed((0, 593.5)).slack_bytes == MIB // 2


def test_slack_is_that_at_the_mark():
    events = (0, 593.5), (0, -593.5)
    assert [replayed(*events, mark=mark).slack_bytes for mark in (0, 1, 2)] == [0, MIB // 2, 0]


def test_neighbours_merge_when_freed():
    fives = [(slot, 5) for slot in range(4)]
    freed = [(slot, -5) for slot in (0, 2, 1, 3)]
    assert peak_mib(*fives, *freed, (0, 20)) == 20


def test_free_segments_are_returned_before_the_card_is_full():
    assert peak_mib((0, 100), (0, -100), (0, 120), limit_mib=150) == 120


def test_emptying_the_cache_returns_free_segments():
    assert peak_mib((0, 100), (1, 30), (0, -100), (EMPTY_CACHE, 0), (0, 110)) == 140


def test_emptying_the_cache_keeps_segments_in_use():
    assert peak_mib((0, 100), (0, -100), (1, 30), (EMPTY_CACHE, 0), (0, 110)) == 210


def test_small_and_large_requests_are_kept_separate():
    assert peak_mib((0, 1), (1, 1), (2, 1), (3, 30)) == 34


@pytest.mark.parametrize(
    ("events", "expected_mib"),
    [
        pytest.param([(0, 100)], 100, id="pages of 20 MiB"),
        pytest.param([(0, 101)], 120, id="rounded up to a page"),
        pytest.param([(0, 90), (1, 10)], 100, id="one segment for all"),
        pytest.param([(0, 60), (0, -60), (0, 100)], 100, id="a free end grows"),
        pytest.param([(0, 60), (1, 60), (0, -60), (2, 80)], 200, id="a hole too small stays"),
        pytest.param(
            [(0, 60), (1, 60), (0, -60), (EMPTY_CACHE, 0), (2, 80)], 140, id="a hole's pages go back to the driver"
        ),
        pytest.param(
            [(0, 60), (1, 60), (0, -60), (EMPTY_CACHE, 0), (2, 40)], 120, id="and are mapped again where they were"
        ),
        pytest.param([(0, 80), (1, 20), (0, -80), (2, 20), (3, 60)], 100, id="a hole is filled"),
    ],
)
def test_an_expandable_segment_grows_page_by_page(events, expected_mib):
    assert peak_mib(*events, expandable=True) == expected_mib


def test_an_expandable_segment_leaves_no_slack():
    assert replayed((0, 593.5), expandable=True).slack_bytes == 0


def test_an_expandable_segment_returns_pages_before_the_card_is_full():
    assert peak_mib((0, 60), (1, 60), (0, -60), (2, 80), limit_mib=150, expandable=True) == 140


class Reference:
    """A plain implementation of the same rules: every segment is a list of [address, bytes, slot or None]."""

    def __init__(self, limit):
        self.limit, self.segments, self.peak, self.numbers = limit, [], 0, itertools.count()

    def reserved(self):
        return sum(block[1] for segment in self.segments for block in segment)

    def take(self, slot, size):
        found = self._best(size)
        if found is None:
            asked = 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            if self.reserved() + asked > self.limit:
                self.release()
            self.segments.append([[next(self.numbers) << 46, asked, None]])
            self.peak = max(self.peak, self.reserved())
            found = self.segments[-1], 0
        segment, index = found
        address, whole, _ = segment[index]
        if whole - size > MIB:
            segment[index : index + 1] = [[address, size, slot], [address + size, whole - size, None]]
        else:
            segment[index][2] = slot

    def _best(self, size):
        fitting = [
            (block[1], block[0], segment, index)
            for segment in self.segments
            for index, block in enumerate(segment)
            if block[2] is None and block[1] >= size
        ]
        return min(fitting, key=lambda entry: entry[:2])[2:] if fitting else None

    def give(self, slot):
        for segment in self.segments:
            for index, block in enumerate(segment):
                if block[2] == slot:
                    block[2] = None
                    self._merge(segment, index)
                    return

    def _merge(self, segment, index):
        for first in (index, index - 1):
            if 0 <= first < len(segment) - 1 and segment[first][2] is segment[first + 1][2] is None:
                segment[first][1] += segment.pop(first + 1)[1]

    def release(self):
        self.segments = [segment for segment in self.segments if len(segment) > 1 or segment[0][2] is not None]


# Few sizes, so that blocks are often as large as each other and their addresses decide.
LIKE_SIZES = st.sampled_from([size * MIB // 512 for size in (2, 3, 9, 10, 20, 24, 40, 64)])
STEPS = st.lists(
    st.tuples(st.integers(2 * MIB // 512, 90 * MIB // 512) | LIKE_SIZES, st.integers(0, 3)), max_size=80
) | st.lists(st.tuples(LIKE_SIZES, st.integers(0, 3)), min_size=20, max_size=60)


def script(steps):
    """Return events: each step allocates, and frees the oldest, newest or a middle block or empties the cache."""
    living, slots, sizes = {}, [], []
    for slot, (units, choice) in enumerate(steps):
        slots.append(slot)
        sizes.append(units * 512)
        living[slot] = units * 512
        if choice == 3 and slot % 7 == 0:
            slots.append(EMPTY_CACHE)
            sizes.append(0)
        elif choice:
            freed = list(living)[{1: 0, 2: -1, 3: len(living) // 2}[choice]]
            slots.append(freed)
            sizes.append(-living.pop(freed))
    return np.array(slots, dtype=np.int64), np.array(sizes, dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([PLENTY, 700 * MIB]))
def test_the_compiled_pool_reserves_what_the_plain_one_does(steps, limit):
    slots, sizes = script(steps)
    found = reserved(Events(slots=slots, sizes=sizes), limit_bytes=limit, mark=len(slots), expandable=False)
    assert found.peak_bytes == played(Reference(limit), slots, sizes)


class Expandable:
    """One expandable segment in the plainest way: runs of [address, bytes, state]; a state is a slot or a word."""

    PAGE = 20 * MIB

    def __init__(self, limit):
        self.limit, self.runs, self.peak = limit, [[0, 1 << 60, "unmapped"]], 0

    def reserved(self):
        return sum(size for _, size, state in self.runs if state != "unmapped")

    def take(self, slot, size):
        index = self._best(size)
        if index is None:
            if self.reserved() + size > self.limit:
                self.release()
            address = self._room(size)
            self._map(address, size)
            index = next(index for index, run in enumerate(self.runs) if run[0] == address)
        self._split(index, size)
        self.runs[index][2] = slot

    def give(self, slot):
        next(run for run in self.runs if run[2] == slot)[2] = "free"
        self._merge()

    def release(self):
        for address, size, state in [run.copy() for run in self.runs]:
            first, last = -(-address // self.PAGE) * self.PAGE, (address + size) // self.PAGE * self.PAGE
            if state == "free" and last > first:
                self._set(first, last - first, "unmapped")
        self._merge()

    def _best(self, size):
        """The smallest that fits; of several, as long as the next can grow less far, the next."""
        fitting = sorted(
            (run[1], run[0], index) for index, run in enumerate(self.runs) if run[2] == "free" and run[1] >= size
        )
        best = None
        for *_, index in fitting:
            if best is not None and self._growing(index) >= self._growing(best):
                break
            best = index
        return best

    def _growing(self, index):
        following = self.runs[index + 1]
        return self.runs[index][1] + (following[1] if following[2] == "unmapped" else 0)

    def _room(self, size):
        """The lowest address from which on so many bytes are not in use."""
        for index, (address, _, _) in enumerate(self.runs):
            room = 0
            for _, length, state in self.runs[index:]:
                if state not in {"free", "unmapped"}:
                    break
                room += length
            if room >= size:
                return address
        raise AssertionError

    def _map(self, address, size):
        """Map whole pages, hole after hole, until the room from an address on is large enough."""
        while True:
            index = next(index for index, run in enumerate(self.runs) if run[0] == address)
            mapped = self.runs[index][1] if self.runs[index][2] == "free" else 0
            if mapped >= size:
                return
            hole = self.runs[index + 1] if mapped else self.runs[index]
            wanted = -(-min(size - mapped, hole[1]) // self.PAGE) * self.PAGE
            self._set(hole[0], wanted, "free")
            self._merge()
            self.peak = max(self.peak, self.reserved())

    def _set(self, address, size, state):
        index = next(index for index, run in enumerate(self.runs) if run[0] <= address < run[0] + run[1])
        if self.runs[index][0] < address:
            self._split(index, address - self.runs[index][0])
            index += 1
        self._split(index, size)
        self.runs[index][2] = state

    def _split(self, index, size):
        address, whole, state = self.runs[index]
        if whole > size:
            self.runs[index : index + 1] = [[address, size, state], [address + size, whole - size, state]]

    def _merge(self):
        merged = []
        for run in self.runs:
            if merged and merged[-1][2] == run[2] and run[2] in {"free", "unmapped"}:
                merged[-1][1] += run[1]
            else:
                merged.append(run)
        self.runs = merged


def played(plain, slots, sizes):
    """Return the peak of a plain replay."""
    for slot, size in zip(slots.tolist(), sizes.tolist(), strict=True):
        if slot == EMPTY_CACHE:
            plain.release()
        elif size > 0:
            plain.take(slot, size)
        else:
            plain.give(slot)
    return plain.peak


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([PLENTY, 700 * MIB]))
def test_the_compiled_segment_grows_as_the_plain_one_does(steps, limit):
    slots, sizes = script(steps)
    found = reserved(Events(slots=slots, sizes=sizes), limit_bytes=limit, mark=len(slots), expandable=True)
    assert found.peak_bytes == played(Expandable(limit), slots, sizes)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_reserved_memory_holds_what_is_allocated(steps, expandable):
    slots, sizes = script(steps)
    found = reserved(Events(slots=slots, sizes=sizes), limit_bytes=PLENTY, mark=len(slots), expandable=expandable)
    assert found.peak_bytes >= np.cumsum(sizes).max(initial=0)
