"""Pictures of memory: same part, same colour; the line stands at the capacity."""

from estimator.estimate import Moment
from specs import GIB
from ui.drawing import charts
from ui.drawing.palette import PARTS


def test_the_colours_of_all_parts_differ():
    assert len({part.color for part in PARTS.values()}) == len(PARTS)


def test_a_part_has_the_colour_of_the_bars_in_the_treemap():
    figure = charts.treemap({"weights": GIB, "logits": GIB})
    assert list(figure.data[0].marker.colors) == [PARTS["weights"].color, PARTS["logits"].color]


def test_the_heat_map_draws_its_line_where_fitting_ends_and_frames_the_plan():
    grid = charts.Grid(used_bytes=[[1, 3], [3, 5]], batches=[1, 2], lengths=[128, 256], capacity_bytes=2)
    figure = charts.heat_map(grid, plan=(2, 128))
    edge = figure.data[1]
    assert list(edge.x) == [0.5, 0.5, None, -0.5, 0.5, None]
    assert list(edge.y) == [-0.5, 0.5, None, 0.5, 0.5, None]
    assert all(frame.x0 < 0 < frame.x1 and frame.y0 < 1 < frame.y1 for frame in figure.layout.shapes)


def test_the_timeline_names_the_peak_and_every_phase():
    moments = [
        Moment(phase=phase, position=0, components={"weights": size * GIB})
        for phase, size in (("forward", 1), ("backward", 3), ("optimizer", 2))
    ]
    figure = charts.timeline(moments, capacity_bytes=4 * GIB)
    texts = {annotation.text for annotation in figure.layout.annotations}
    assert texts == {"peak 3.0 GiB, backward", "forward", "backward", "optimizer"}


def dot(**changes):
    return charts.Dot(**{"group": "Tesla T4", "line": "7B, qlora", "measured": 100, "predicted": 101} | changes)


def test_twins_share_a_line_and_every_set_has_its_own_colour():
    dots = [dot(note="eager"), dot(note="flash", predicted=97), dot(line="7B, lora"), dot(group="A100")]
    figure = charts.errors(dots)
    t4, a100 = figure.data
    assert t4.y[0] == t4.y[1] != t4.y[2] != a100.y[0]
    assert [round(error, 3) for error in t4.x[:2]] == [1.0, -3.0]
    assert t4.marker.color != a100.marker.color
    assert [entry.text for entry in figure.layout.annotations].count("7B, qlora") == 2


def test_a_prediction_that_is_exact_is_not_off_by_minus_zero():
    told = charts.errors([dot(measured=1_000_000, predicted=999_999)]).data[0].customdata[0]
    assert "+0.0%" in told
