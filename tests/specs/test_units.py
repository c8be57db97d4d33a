"""Bytes are shown in GiB with one decimal, and small amounts in MiB."""

import pytest

from specs import GIB, MIB, GpuSpec, SpecError, gib


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0 MiB"), (300 * MIB, "300 MiB"), (GIB, "1.0 GiB"), (24 * GIB, "24.0 GiB"), (-5 * GIB, "-5.0 GiB")],
)
def test_bytes_are_shown_as_a_person_reads_them(num_bytes: int, shown: str) -> None:
    assert gib(num_bytes) == shown


@pytest.mark.parametrize(("memory", "usable"), [(0, 0), (8 * GIB, 9 * GIB), (8 * GIB, 0)])
def test_a_card_with_impossible_memory_is_refused(memory: int, usable: int) -> None:
    with pytest.raises(SpecError):
        GpuSpec(name="card", memory_bytes=memory, usable_bytes=usable)
