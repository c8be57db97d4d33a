"""Training curves: series in, Plotly figures out. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from ui.drawing.palette import CURVES

MOST_POINTS = 1000
"""The most points of a curve that a browser draws without delay; longer curves are thinned."""
FEW_POINTS = 30
"""Up to this many points, each is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One series over steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    is_smoothed: bool = True
    """Whether the view smooths it; otherwise it is drawn as measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How curves are shown; kept in widgets, so that new data never resets it."""

    smoothing: float = 0.0
    """Weight of the past in the moving average, 0 to 0.99."""
    log_scale: bool = False
    last_steps: int | None = None
    """How many of the newest steps to show; None shows all."""


def figure(curves: Sequence[Curve], *, view: View, quantity: str, height: int = 320) -> go.Figure:
    """Return curves over steps: the smoothed line in full colour, the measured one pale behind it."""
    drawn = go.Figure()
    for curve, color in zip(curves, _colors(len(curves)), strict=True):
        shown, name = visible(curve, view.last_steps), _literal(curve.name)
        weight = view.smoothing if curve.is_smoothed and len(shown.steps) > 1 else 0.0
        if weight:
            thin = thinned(shown)
            drawn.add_scatter(
                x=thin.steps,
                y=thin.values,
                mode="lines",
                line={"color": color, "width": 1},
                opacity=0.35,
                name=f"{name}, measured",
                showlegend=False,
                hoverinfo="skip",
            )
        line = thinned(smoothed(shown, weight))
        drawn.add_scatter(
            x=line.steps,
            y=line.values,
            mode="lines+markers" if len(line.steps) <= FEW_POINTS else "lines",
            line={"color": color, "width": 2},
            marker={"size": 5},
            name=name,
            hovertemplate=f"step %{{x:,}}: %{{y:.4g}}<extra>{name}</extra>",
        )
    drawn.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 28, "b": 0},
        showlegend=len(curves) > 1,
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},  # above it lies the toolbar, on a phone too
        xaxis={"title": "step", "rangemode": "tozero" if view.last_steps is None else "normal"},
        yaxis={"title": quantity, "exponentformat": "e", **_scale(curves, log_scale=view.log_scale)},
        hovermode="x unified" if len(curves) > 1 else "closest",
    )
    return drawn


def _scale(curves: Sequence[Curve], *, log_scale: bool) -> dict[str, object]:
    """Return the scale of the values; where they are all the same, Plotly may place the title at no finite number."""
    values, kind = {value for curve in curves for value in curve.values}, "log" if log_scale else "linear"
    if len(values) != 1 or (log_scale and min(values) <= 0):
        return {"type": kind}
    middle = math.log10(values.pop()) if log_scale else values.pop()
    reach = 0.5 if log_scale else abs(middle) / 2 or 1.0
    return {"type": kind, "range": [middle - reach, middle + reach]}


def _literal(name: str) -> str:
    """Return a name as Plotly shows it letter by letter: it reads HTML, and ``%{`` in hover texts."""
    return escape(name).replace("%", "&#37;")


def smoothed(curve: Curve, weight: float) -> Curve:
    """Return an exponential moving average, corrected for its start; values that are not finite do not enter it.

    Source:
        The debiasing of Kingma and Ba 2015, Adam, section 3, https://arxiv.org/abs/1412.6980.
    """
    if not weight:
        return curve
    average, mass, out = 0.0, 0.0, []
    for number in curve.values:
        if not math.isfinite(number):
            out.append(number)
            continue
        average = weight * average + (1 - weight) * number
        mass = weight * mass + (1 - weight)
        out.append(average / mass)
    return Curve(name=curve.name, steps=curve.steps, values=out)


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return at most ``most`` points: the lowest and highest of each bucket, and always the first and the last."""
    size = len(curve.steps)
    if size <= most:
        return curve
    buckets = (most - 2) // 2
    kept = {0, size - 1}
    for bucket in range(buckets):
        indices = range(bucket * size // buckets, (bucket + 1) * size // buckets)
        kept.add(min(indices, key=curve.values.__getitem__))
        kept.add(max(indices, key=curve.values.__getitem__))
    order = sorted(kept)
    return Curve(
        name=curve.name, steps=[curve.steps[index] for index in order], values=[curve.values[index] for index in order]
    )


def visible(curve: Curve, last_steps: int | None) -> Curve:
    """Return the part of a curve that lies in the newest steps; all of it for None."""
    if last_steps is None or not curve.steps:
        return curve
    first = curve.steps[-1] - last_steps
    kept = [index for index, step in enumerate(curve.steps) if step > first]
    return Curve(
        name=curve.name, steps=[curve.steps[index] for index in kept], values=[curve.values[index] for index in kept]
    )


def _colors(number: int) -> list[str]:
    return [CURVES[index % len(CURVES)] for index in range(number)]
