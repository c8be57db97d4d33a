"""Pictures as small as a word or a tile: every value inside, nothing of a name read as markup."""

import base64
import dataclasses
import math
import re

import pytest

from trainer.runs.contract import Metric
from ui.drawing.curves import Curve, View, figure
from ui.drawing.small_chart import Small, small_charts
from ui.drawing.sparkline import sparkline
from ui.runs.facts import quantities


def shapes(markup: str) -> list[str]:
    """The SVG of each picture in some markup."""
    return [base64.b64decode(found).decode() for found in re.findall(r"base64,([\w+/=]+)", markup)]


def points(svg: str) -> list[tuple[float, float]]:
    line = re.search(r"points='([^']+)'", svg)[1]
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_a_sparkline_goes_down_where_the_loss_does():
    (svg,) = shapes(sparkline([3.0, math.nan, 2.0, 1.0], alt="loss"))
    heights = [y for _, y in points(svg)]
    assert heights == sorted(heights)
    assert len(heights) == 3
    assert sparkline([1.0], alt="loss") == ""


def test_a_constant_rate_is_a_level_line_smoothed_too():
    curve = Curve(name="rate", steps=list(range(1, 31)), values=[1e-4] * 30)
    (svg,) = shapes(small_charts([Small(title="Learning rate", curves=[curve], last="1e-4")], view=View(smoothing=0.6)))
    assert len({y for _, y in points(svg)}) == 1


def test_the_range_that_is_told_holds_the_newest_value_however_smooth_the_line():
    curve = Curve(name="loss", steps=[1, 2, 3], values=[2.0, 4.0, 1.0])
    markup = small_charts([Small(title="Loss", curves=[curve], last="1")], view=View(smoothing=0.9))
    assert "<span>1 to 4</span>" in markup


def test_a_learning_rate_is_drawn_as_it_was_set():
    rates = [Metric(step=step, learning_rate=rate) for step, rate in enumerate((0.0, 1e-3, 5e-4), start=1)]
    assert not quantities.curve(rates, "learning_rate", "rate").is_smoothed
    assert quantities.curve([Metric(step=1, loss=2.0)], "loss", "loss").is_smoothed


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [1.0, math.inf, 3.0], [-1e9, 1e9]])
def test_a_small_chart_keeps_all_that_is_finite_inside(values):
    curve = Curve(name="<s>", steps=list(range(1, len(values) + 1)), values=values)
    markup = small_charts([Small(title="<i>", curves=[curve, curve], last="1", line=(0.5, "<u>"))], view=View())
    (svg,) = shapes(markup)
    assert all(0 <= x <= 300 and 0 <= y <= 84 for x, y in points(svg))
    assert not re.search(r"<[siu]>", markup)
    assert "stroke-dasharray" in svg


def test_a_curve_of_numbers_that_are_none_is_left_out():
    curve = Curve(name="a", steps=[1], values=[math.nan])
    assert shapes(small_charts([Small(title="t", curves=[curve], last="–")], view=View())) == []


def test_names_of_curves_are_no_markup_and_no_template():
    drawn = figure([Curve(name="<a>%{x}", steps=[1], values=[1.0])], view=View(log_scale=True), quantity="loss")
    assert drawn.data[0].name == "&lt;a&gt;&#37;{x}"
    assert drawn.layout.yaxis.range == (-0.5, 0.5)


def test_the_range_is_of_what_was_measured_and_told_once_where_its_ends_read_the_same():
    curve = Curve(name="memory", steps=[1, 2, 3], values=[1.10, 1.14, 1.12])
    chart = Small(title="Memory", curves=[curve], last="1.1", line=(2.0, "predicted"), form="{:.1f} GiB".format)
    assert "<span>1.1 GiB</span>" in small_charts([chart], view=View())
    wider = dataclasses.replace(chart, curves=[Curve(name="memory", steps=[1, 2], values=[1.0, 1.3])])
    assert "<span>1.0 GiB to 1.3 GiB</span>" in small_charts([wider], view=View())
