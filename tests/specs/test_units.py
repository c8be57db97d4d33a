"""What a person reads: bytes in GiB with one decimal, small amounts in MiB, what was got on one short line."""

import pytest

from specs import GIB, KIB, MIB, GpuSpec, SpecError, gib
from specs.errors import LorafitError, shortened
from specs.units import gib_between, with_digits
from trainer.data.row import Finding


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 MiB"),
        (100, "under 1 KiB"),
        (-300_000, "-293 KiB"),
        (1_048_000, "1,023 KiB"),
        (1_048_575, "1 MiB"),
        (314_572_800, "300 MiB"),
        (1_073_217_535, "1,023 MiB"),
        (1_073_217_537, "1.0 GiB"),
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
        pytest.param(("q_proj", "v_proj"), "q_proj, v_proj", id="a list as it is typed"),
        pytest.param((("q_proj", 8),), "q_proj, 8", id="a list of pairs"),
        pytest.param("x" * 80, "x" * 80, id="80 characters are shown"),
        pytest.param("x" * 81, "x" * 79 + "…", id="more are cut"),
    ],
)
def test_what_was_got_is_shown_on_one_short_line(value: object, shown: str) -> None:
    assert shortened(value) == shown


@pytest.mark.parametrize(
    ("number", "digits", "shown"),
    [
        (0.94321, 3, "0.943"),
        (12.34, 2, "12"),
        (99.6, 2, "100"),
        (123.4, 2, "123"),
        (1234.5, 3, "1,234"),
        (-0.5, 2, "-0.5"),
    ],
)
def test_a_number_with_few_digits_is_never_a_power_of_ten(number: float, digits: int, shown: str) -> None:
    assert with_digits(number, digits) == shown


@pytest.mark.parametrize("less", [0, 300 * MIB, GIB - 1, GIB, 5 * GIB])
def test_what_lies_between_two_sizes_adds_up_where_both_have_one_unit(less: int) -> None:
    for more in (less, less + 40 * MIB, less + GIB - 1, less + 7 * GIB):
        shown = [gib(less), gib_between(less, more), gib(more)]
        amounts = [float(one.split()[0].replace(",", "")) for one in shown]
        if len({one.split()[1] for one in shown}) == 1:
            assert amounts[0] + amounts[1] == pytest.approx(amounts[2])


INNER = str(LorafitError("a", "b", None, "Do c"))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        pytest.param(
            ("x", f"is unknown: {INNER}", None, "Add y"), "x: is unknown: a: b. Do c. Add y.", id="as the rule"
        ),
        pytest.param(("x", f"is unknown: {INNER}"), "x: is unknown: a: b. Do c.", id="as the end"),
        pytest.param(("x", "must be y.", 3), "x: must be y, got 3.", id="before what was got"),
        pytest.param(("x", "y", None, INNER), "x: y. a: b. Do c.", id="as the way out"),
        pytest.param(
            ("x", "y", None, "Commonest: z..."), "x: y. Commonest: z...", id="what was cut off keeps its mark"
        ),
        pytest.param(("x", "y: z…", None, "Do c"), "x: y: z… Do c.", id="a cut sentence"),
    ],
)
def test_a_sentence_within_a_sentence_ends_in_one_full_stop(parts: tuple[str, ...], sentence: str) -> None:
    assert str(LorafitError(*parts)) == sentence
    assert Finding(row=1, reason=INNER).sentence == "Row 1: a: b. Do c."
