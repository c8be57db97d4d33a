"""Curves: what a view may change and what it may not."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from ui.drawing.curves import Curve, View, figure, smoothed, thinned

numbers = st.floats(-1e3, 1e3)


def curve(values):
    return Curve(name="loss", steps=list(range(1, len(values) + 1)), values=values)


@given(st.lists(numbers, max_size=400), st.integers(10, 100))
def test_thinning_keeps_both_ends_and_both_extremes(values, most):
    thin = thinned(curve(values), most)
    assert len(thin.steps) <= max(most, 2) or len(values) <= most
    assert list(thin.steps) == sorted(thin.steps)
    if values:
        assert (thin.steps[0], thin.steps[-1]) == (1, len(values))
        assert (min(thin.values), max(thin.values)) == (min(values), max(values))


@given(st.lists(numbers, min_size=1, max_size=50), st.floats(0, 0.99))
def test_smoothing_stays_between_the_extremes(values, weight):
    out = smoothed(curve(values), weight).values
    assert len(out) == len(values)
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for value in out)


@given(numbers, st.floats(0, 0.99))
def test_smoothing_leaves_a_constant_alone(value, weight):
    assert all(math.isclose(out, value, abs_tol=1e-6) for out in smoothed(curve([value] * 20), weight).values)


def test_a_loss_that_is_not_a_number_does_not_spoil_the_average():
    out = smoothed(curve([1.0, math.nan, 1.0]), 0.5).values
    assert math.isnan(out[1])
    assert out[2] == 1.0


def test_a_range_shows_only_the_newest_steps():
    shown = figure([curve([1.0] * 100)], view=View(last_steps=10), quantity="loss")
    assert list(shown.data[0].x) == list(range(91, 101))


def test_the_measured_curve_stays_visible_behind_the_smoothed_one():
    values = [math.sin(step) for step in range(40)]
    shown = figure([curve(values)], view=View(smoothing=0.5), quantity="loss")
    assert list(shown.data[0].y) == values
    assert len(shown.data) == 2


def test_smoothing_works_from_the_second_point_on():
    shown = figure([curve([3.0, 1.0])], view=View(smoothing=0.5), quantity="loss")
    assert [list(line.y) for line in shown.data] == [[3.0, 1.0], [3.0, 5 / 3]]


def test_evaluations_are_drawn_as_measured():
    measured = dataclasses.replace(curve([3.0, 1.0, 2.0]), is_smoothed=False)
    shown = figure([measured], view=View(smoothing=0.9), quantity="eval loss")
    assert [list(line.y) for line in shown.data] == [[3.0, 1.0, 2.0]]


def test_five_thousand_points_are_drawn_as_a_thousand():
    shown = figure([curve([math.sin(step) for step in range(5000)])], view=View(), quantity="loss")
    assert len(shown.data[0].x) <= 1000
