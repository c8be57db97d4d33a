"""Means with their deviations: values in, a Plotly figure out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from ui.drawing.palette import CURVES


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mean."""

    at: str
    """Its place on the axis."""
    series: str
    """The points that it is drawn in one colour with; empty if there is one series alone."""
    mean: float
    deviation: float | None
    """Half the length of its error bar; None for no bar."""


def figure(points: Sequence[Point], *, across: str, up: str, height: int = 340) -> go.Figure:
    """Return points with error bars, one colour for each series, side by side so that no bar hides another.

    Args:
        points: What is drawn.
        across: The title of the axis of places.
        up: The title of the axis of means.
        height: The height in pixels.
    """
    places = list(dict.fromkeys(point.at for point in points))
    names = list(dict.fromkeys(point.series for point in points))
    drawn = go.Figure()
    for number, name in enumerate(names):
        mine = [point for point in points if point.series == name]
        shift = (number - (len(names) - 1) / 2) * 0.5 / max(1, len(names))
        drawn.add_scatter(
            x=[places.index(point.at) + shift for point in mine],
            y=[point.mean for point in mine],
            error_y={"array": [point.deviation or 0.0 for point in mine], "thickness": 1.5, "width": 4},
            mode="lines+markers",
            line={"color": CURVES[number % len(CURVES)], "width": 1},
            marker={"size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
            name=escape(name),
            customdata=[escape(_told(point)) for point in mine],
            hovertemplate="%{customdata}<extra></extra>",
        )
    drawn.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 28, "b": 0},
        showlegend=len(names) > 1,
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
        xaxis={"title": across, "tickvals": [*range(len(places))], "ticktext": places, "fixedrange": True},
        yaxis={"title": up, "fixedrange": True},
        hovermode="closest",
    )
    return drawn


_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
"""Shapes, so that series are told apart without colours too."""


def _told(point: Point) -> str:
    bar = f" ± {point.deviation:.4f}" if point.deviation is not None else ""
    return f"{', '.join(filter(None, (point.series, point.at)))}: {point.mean:.4f}{bar}"
