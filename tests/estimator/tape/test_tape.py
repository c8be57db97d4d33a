"""Sizes as functions of batch, length and rank, and the events that tell where blocks end up."""

import dataclasses
import json

import pytest

from estimator.tape.sizes import CHUNK_MONOMIALS, MONOMIALS, ROW_MONOMIALS, basis, rounded_bytes
from estimator.tape.tape import Tape
from specs import PlanError, TraceError
from tests.estimator.hand import TAPE


def test_a_size_is_made_of_batch_length_and_rank():
    plain = {"1": 1, "b": 2, "s": 5, "bs": 10, "bss": 50, "ss": 25, "n": 8, "m": 12, "t": 8}
    assert dict(zip(MONOMIALS, basis(2, 5, 3), strict=False)) == plain
    by_rank = basis(2, 5, 3)[len(MONOMIALS) : 2 * len(MONOMIALS)]
    assert by_rank == tuple(3 * value for value in plain.values())


OF_CHUNKS = slice(-len(CHUNK_MONOMIALS) - len(ROW_MONOMIALS), -len(ROW_MONOMIALS))


def test_layers_that_work_in_chunks_add_chunks_states_and_the_last_chunk():
    found = dict(zip(CHUNK_MONOMIALS, basis(2, 130, 3, 64)[OF_CHUNKS], strict=True))
    assert [found[name] for name in ("c", "d", "e", "bdd")] == [3, 4, 2, 32]
    assert not any(basis(2, 130, 3)[OF_CHUNKS])


def test_losses_that_compare_the_rows_of_a_batch_add_its_square():
    assert basis(7, 130, 3)[-len(ROW_MONOMIALS) :] == (49,)


def test_a_size_that_stands_for_every_chunk_but_some_is_counted_so_often():
    tape = dataclasses.replace(TAPE, repeats={0: 2}, facts={**TAPE.facts, "chunk": 64})
    again = Tape.from_json(tape.to_json())
    once = TAPE.bytes_by_size(1, 640, 4)[0]
    assert again.bytes_by_size(1, 640, 4)[0] == (10 - 2) * once
    assert again.bytes_by_size(1, 64, 4)[0] == 0


def test_a_tile_of_the_loss_has_at_most_4096_positions():
    assert [basis(1, length, 1)[MONOMIALS.index("t")] for length in (4097, 4098)] == [4096, 4096]


@pytest.mark.parametrize(("asked", "given"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 1536)])
def test_the_allocator_hands_out_multiples_of_512(asked, given):
    assert rounded_bytes(asked) == given


def test_sizes_are_rounded_as_the_allocator_does():
    assert TAPE.bytes_by_size(1, 8, 1).tolist() == [1024, 4096, 512]


@pytest.mark.parametrize(
    ("batch", "refused"),
    [
        pytest.param(65_536, False, id="2^46 bytes"),
        pytest.param(65_537, True, id="more"),
    ],
)
def test_a_tensor_beyond_64_tebibytes_is_refused(batch, refused):
    length = 2**21  # at 512 bytes a token
    if not refused:
        assert TAPE.bytes_by_size(batch, length, 1).max() == 2**46
        return
    with pytest.raises(PlanError, match="must keep each tensor of a step under 64 TiB, got '65,537 x 2,097,152'"):
        TAPE.bytes_by_size(batch, length, 1)


def test_an_outline_leaves_out_what_lives_within_a_repeated_pass():
    deep = dataclasses.replace(TAPE, layers=(0,) * 6)
    program, outline = deep.program, deep.outline
    # Of six layers the third and fourth make and free a workspace within their forward pass: two events each.
    assert set(range(len(program.sign))) - set(outline.events.tolist()) == {8, 9, 11, 12}
    assert outline.program.forward_events == program.forward_events - 4
    assert outline.program.backward_ends == tuple(end - 4 for end in program.backward_ends)
    assert len(outline.program.sign) == len(program.sign) - 4


def test_four_layers_are_told_whole():
    whole = dataclasses.replace(TAPE, layers=(0,) * 4)
    assert len(whole.outline.events) == len(whole.program.sign)


def nodes(value, place=()):
    """Yield the place of everything in nested lists and mappings."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from nodes(part, (*place, key))


def replaced(value, place, new):
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@pytest.mark.parametrize(
    "new", [None, True, 1.5, "1", -1, 10**30, pytest.param([], id="[]"), pytest.param({}, id="{}")], ids=repr
)
def test_a_tape_with_anything_of_a_wrong_type_is_none(new):
    values = json.loads(TAPE.to_json())
    usable = set()
    for place in nodes(values):
        changed = replaced(values, place, new)
        try:
            tape = Tape.from_json(json.dumps(changed))
        except TraceError:
            continue
        usable.add(place)
        assert len(tape.program.sign) >= 10
        assert tape.bytes_by_size(2, 8, 4).dtype == int
    # Of the right type after all: a coefficient of -1, no layer, nothing handed over, no facts.
    kinds = {"sizes"} if new == -1 else {"residents"} if new is None else {"blocks", "facts", "sizes", "residents"}
    assert {place[0] for place in usable} <= kinds


def test_a_tape_comes_back_as_it_was_written():
    assert Tape.from_json(TAPE.to_json()).to_json() == TAPE.to_json()


@pytest.mark.parametrize("text", ["", "nul", "[" * 100_000, '{"format": 1}', '{"format": 2}', "[]", '"1"'])
def test_a_text_that_is_no_tape_is_refused(text):
    with pytest.raises(TraceError, match="It is traced again"):
        Tape.from_json(text)
