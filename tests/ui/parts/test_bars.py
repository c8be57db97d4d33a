"""Memory bars: same part, same colour; the line stands at the capacity; nothing leaves the picture."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import GIB
from ui.drawing.bars import Bar, memory_bars, tick_step
from ui.drawing.palette import CAPACITY_LINE, PARTS

SIZES = st.dictionaries(st.sampled_from(list(PARTS)), st.integers(2**20, 2**44), min_size=1)


def drawn(parts, *, capacity_bytes=None, band=None, label="plan"):
    return memory_bars([Bar(label=label, parts=parts)], alt="memory", capacity_bytes=capacity_bytes, band=band)


def pieces(markup):
    """Return the share of the width that each part takes, by its colour."""
    return {color: float(width) for width, color in re.findall(r"width:([\d.]+)%;background:(#\w+);border", markup)}


def line(markup):
    return float(re.search(rf"left:([\d.]+)%;[^']*dashed {CAPACITY_LINE}", markup)[1])


def test_every_part_has_its_own_colour_in_bar_and_legend():
    markup = drawn({"weights": GIB, "logits": GIB})
    assert list(pieces(markup)) == [PARTS["weights"].color, PARTS["logits"].color]
    assert all(markup.count(PARTS[name].color) == 2 for name in ("weights", "logits"))
    assert "Weights 1.0 GiB" in markup


@given(SIZES, st.integers(2**30, 2**44), st.floats(0, 0.5))
def test_parts_are_to_scale_with_the_line_and_inside_the_picture(parts, capacity, upper):
    markup = drawn(parts, capacity_bytes=capacity, band=(-0.1, upper))
    total = sum(pieces(markup).values())
    larger, smaller = max(sum(parts.values()), capacity), min(sum(parts.values()), capacity)
    shown = sorted([total, line(markup)])
    assert shown[0] == pytest.approx(shown[1] * smaller / larger, abs=0.02)  # shares are rounded to 0.001 %
    assert max(total * (1 + upper), line(markup)) <= 100


@given(st.floats(1.0, 2.0**50))
def test_an_axis_has_two_to_six_steps_of_a_round_length(reach):
    step = tick_step(reach)
    assert 2 <= reach / GIB / step <= 6.001
    assert f"{step:.0e}"[0] in "125"


def test_words_stand_on_the_side_of_the_line_that_has_room():
    assert (
        "left:"
        in re.search(
            r"<div style='position:absolute;([^']*)'>1.0 GiB", drawn({"weights": 9 * GIB}, capacity_bytes=GIB)
        )[1]
    )
    assert (
        "right:"
        in re.search(
            r"<div style='position:absolute;([^']*)'>8.0 GiB", drawn({"weights": GIB}, capacity_bytes=8 * GIB)
        )[1]
    )


def test_an_unknown_part_is_shown_under_its_own_name_and_as_text():
    markup = drawn({"weights": GIB, "<b>new_part": GIB})
    assert "&lt;b&gt;new part" in markup
    assert "<b>" not in markup


def test_what_is_said_for_those_who_do_not_see_is_no_markup():
    markup = memory_bars([Bar(label="<i>", parts={"weights": 1})] * 2, alt="it's <b>", capacity_bytes=None)
    assert "aria-label='it&#x27;s &lt;b&gt;'" in markup
    assert "<i>" not in markup
