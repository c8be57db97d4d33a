"""Small charts over steps, in SVG: values in, markup out. Pure.

A live run draws them again every two seconds: markup is replaced at once, each Plotly chart would be laid out anew.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ui.drawing.curves import Curve, View, smoothed, thinned, visible
from ui.drawing.palette import CAPACITY_LINE, CURVES
from ui.drawing.picture import picture

_MOST_POINTS = 240
_HEIGHT = 84
_WIDTH = 300
"""In units of the picture, which is stretched to the place that it has."""
_AIR = 0.06
"""Share of the height that stays free above the highest and below the lowest value."""
_FLAT = 1e-9
"""Values that differ by a smaller share are the same but for rounding, as a constant rate is once it is smoothed."""


def short(value: float) -> str:
    """Return a value with three digits, or as a whole number where it has more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """One small chart."""

    title: str
    curves: Sequence[Curve]
    last: str
    """The newest value in words."""
    line: tuple[float, str] | None = None
    """A value to compare with, drawn as a dashed line, and its name."""
    form: Callable[[float], str] = short
    """Writes the lowest and the highest value that was measured, one where both read the same."""


def small_charts(charts: Sequence[Small], *, view: View) -> str:
    """Return charts side by side, as many in a row as there is place for."""
    cells = "".join(_cell(chart, view) for chart in charts)
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,10.25rem),1fr));gap:0.6rem"
    return f"<div style='{grid}'>{cells}</div>"


def _cell(chart: Small, view: View) -> str:
    drawn = [_prepared(curve, view) for curve in chart.curves]
    measured = [visible(curve, view.last_steps) for curve in chart.curves]
    values = [value for curve in measured for value in curve.values if math.isfinite(value)]
    if not values:
        return ""
    span = f"{chart.form(min(values))} to {chart.form(max(values))}"
    if chart.form(min(values)) == chart.form(max(values)):
        span = chart.form(max(values))
    if chart.line:
        values.append(chart.line[0])
    low, high = min(values), max(values)
    first, last = min(curve.steps[0] for curve in drawn), max(curve.steps[-1] for curve in drawn)
    frame = _Frame(first, max(last, first + 1), low, high)
    paths = "".join(_path(curve, frame, color) for curve, color in zip(drawn, CURVES, strict=False))
    names = " ".join(
        f"<span style='border-bottom:2px solid {color}'>{escape(curve.name)}</span>"
        for curve, color in zip(chart.curves, CURVES, strict=False)
        if len(chart.curves) > 1
    )
    if chart.line:
        paths += frame.level(chart.line[0])
        names += f"<span style='border-bottom:2px dashed {CAPACITY_LINE}'>{escape(chart.line[1])}</span>"
    alt = f"{chart.title} over steps {first:,} to {last:,}: {chart.last}"
    return (
        "<div style='border:1px solid rgba(128,128,128,0.3);border-radius:6px;padding:0.45rem 0.6rem'>"
        "<div style='display:flex;justify-content:space-between;gap:0.5rem;font-size:0.85rem'>"
        f"<span>{escape(chart.title)}</span><b>{escape(chart.last)}</b></div>"
        f"{picture(paths, size=(_WIDTH, _HEIGHT), alt=alt, style=f'width:100%;height:{_HEIGHT}px;display:block')}"
        "<div style='display:flex;justify-content:space-between;flex-wrap:wrap;gap:0 0.6rem;font-size:0.75rem;"
        f"opacity:0.8'><span>{escape(span)}</span>{names}</div></div>"
    )


def _prepared(curve: Curve, view: View) -> Curve:
    """Return what is drawn of a curve: its average, without what is not finite."""
    shown = visible(curve, view.last_steps)
    shown = thinned(smoothed(shown, view.smoothing if curve.is_smoothed else 0.0), _MOST_POINTS)
    kept = [(step, value) for step, value in zip(shown.steps, shown.values, strict=True) if math.isfinite(value)]
    return Curve(name=curve.name, steps=[step for step, _ in kept], values=[value for _, value in kept])


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where steps and values lie in the picture."""

    first: int
    last: int
    low: float
    high: float

    def x(self, step: int) -> float:
        return (step - self.first) / (self.last - self.first) * _WIDTH

    def y(self, value: float) -> float:
        reach = self.high - self.low
        share = (value - self.low) / reach if reach > _FLAT * max(abs(self.low), abs(self.high)) else 0.5
        return _HEIGHT * (1 - _AIR - share * (1 - 2 * _AIR))

    def level(self, value: float) -> str:
        """Return a dashed line at a value."""
        at = f"{self.y(value):.1f}"
        return (
            f"<line x1='0' x2='{_WIDTH}' y1='{at}' y2='{at}' stroke='{CAPACITY_LINE}' stroke-width='1.5' "
            "stroke-dasharray='6 4' vector-effect='non-scaling-stroke'/>"
        )


def _path(curve: Curve, frame: _Frame, color: str) -> str:
    measured = zip(curve.steps, curve.values, strict=True)
    points = [f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in measured]
    width = 2
    if len(points) == 1:
        points, width = 2 * points, 7  # a dot
    return (
        f"<polyline points='{' '.join(points)}' fill='none' stroke='{color}' stroke-width='{width}' "
        "stroke-linejoin='round' stroke-linecap='round' vector-effect='non-scaling-stroke'/>"
    )
