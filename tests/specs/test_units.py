"""What a person reads: bytes in GiB with one decimal, small amounts in MiB, what was got on one short line."""

import pytest

from specs import GIB, KIB, MIB, GpuSpec, SpecError, gib
from specs.errors import shortened


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 MiB"),
        (314_572_800, "300 MiB"),
        (1_073_741_823, "1,024 MiB"),
        (1_073_741_824, "1.0 GiB"),
        (24 * GIB, "24.0 GiB"),
        (-5 * GIB, "-5.0 GiB"),
    ],
)
def test_bytes_are_shown_as_a_person_reads_them(num_bytes: int, shown: str) -> None:
    assert gib(num_bytes) == shown


@pytest.mark.parametrize(("memory", "usable"), [(0, 0), (8 * GIB, 9 * GIB), (8 * GIB, 0)])
def test_a_card_with_impossible_memory_is_refused(memory: int, usable: int) -> None:
    with pytest.raises(SpecError):
        GpuSpec(name="card", memory_bytes=memory, usable_bytes=usable)


@pytest.mark.parametrize(("memory", "usable"), [(1, 1), (8 * GIB, 8 * GIB), (8 * GIB, 1)])
def test_a_card_may_hand_out_all_that_it_has(memory: int, usable: int) -> None:
    assert GpuSpec(name="card", memory_bytes=memory, usable_bytes=usable).usable_bytes == usable


def test_the_units_are_powers_of_1024() -> None:
    assert (KIB, MIB, GIB) == (1_024, 1_048_576, 1_073_741_824)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("q_proj", "q_proj", id="a name without quotes"),
        pytest.param("a b", "'a b'", id="other text in quotes"),
        pytest.param(1.5, "1.5", id="a number"),
        pytest.param("x" * 80, "x" * 80, id="80 characters are shown"),
        pytest.param("x" * 81, "x" * 79 + "…", id="more are cut"),
    ],
)
def test_what_was_got_is_shown_on_one_short_line(value: object, shown: str) -> None:
    assert shortened(value) == shown
