"""Pictures of memory: same part, same colour; the line stands at the capacity."""

from estimator.estimate import Moment
from specs import GIB
from ui.parts import charts
from ui.parts.palette import PARTS


def test_the_colours_of_all_parts_differ():
    assert len({part.color for part in PARTS.values()}) == len(PARTS)


def test_a_part_has_the_colour_of_the_bars_in_the_treemap():
    figure = charts.treemap({"weights": GIB, "logits": GIB})
    assert list(figure.data[0].marker.colors) == [PARTS["weights"].color, PARTS["logits"].color]


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
