"""Pictures of memory: same part, same colour; the line stands at the capacity."""

from estimator.estimate import Moment
from specs import GIB
from ui import charts
from ui.palette import PARTS


def bars(**parts):
    return [charts.Bar(label="plan", parts=parts)]


def test_a_part_has_its_own_colour_wherever_it_appears():
    one = charts.memory_bars(bars(weights=GIB, logits=GIB), capacity_bytes=None)
    two = charts.treemap({"weights": GIB, "logits": GIB})
    assert [trace.marker.color for trace in one.data] == [PARTS["weights"].color, PARTS["logits"].color]
    assert list(two.data[0].marker.colors) == [PARTS["weights"].color, PARTS["logits"].color]


def test_the_colours_of_all_parts_differ():
    assert len({part.color for part in PARTS.values()}) == len(PARTS)


def test_the_bar_adds_up_to_the_total():
    figure = charts.memory_bars(bars(weights=2 * GIB, cache=GIB), capacity_bytes=4 * GIB)
    assert sum(trace.x[0] for trace in figure.data) == 3


def test_the_line_stands_at_the_capacity_and_inside_the_picture():
    figure = charts.memory_bars(bars(weights=GIB), capacity_bytes=8 * GIB)
    assert figure.layout.shapes[0].x0 == 8
    assert figure.layout.xaxis.range[1] > 8


def test_an_estimate_beyond_the_capacity_stays_inside_the_picture():
    figure = charts.memory_bars(bars(weights=40 * GIB), capacity_bytes=8 * GIB, band=(-0.05, 0.06))
    assert figure.layout.xaxis.range[1] > 40 * 1.06


def test_the_heat_map_draws_its_line_where_fitting_ends():
    figure = charts.heat_map([[1, 3], [3, 5]], batches=[1, 2], lengths=[128, 256], capacity_bytes=2)
    edge = figure.data[1]
    assert list(edge.x) == [0.5, 0.5, None, -0.5, 0.5, None]
    assert list(edge.y) == [-0.5, 0.5, None, 0.5, 0.5, None]


def test_the_timeline_names_the_peak_and_every_phase():
    moments = [
        Moment(phase=phase, position=0, components={"weights": size * GIB})
        for phase, size in (("forward", 1), ("backward", 3), ("optimizer", 2))
    ]
    figure = charts.timeline(moments, capacity_bytes=4 * GIB)
    texts = {annotation.text for annotation in figure.layout.annotations}
    assert texts == {"peak 3.0 GiB, backward", "forward", "backward", "optimizer"}


def test_an_unknown_part_is_shown_under_its_own_name():
    figure = charts.memory_bars(bars(weights=GIB, new_part=GIB), capacity_bytes=None)
    assert figure.data[-1].name.startswith("New part")
