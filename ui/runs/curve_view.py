"""The controls of the curves; their values survive every update and are in the address."""

from collections.abc import Sequence
from typing import Literal

import streamlit as st

from ui.drawing import charts, curves
from ui.drawing.curves import Curve, View
from ui.parts import exhibits, given
from ui.runs.facts import quantities, tables

URL: Literal["query-params"] = "query-params"
RANGES = {"All": None, "Last 50 steps": 50, "Last 500 steps": 500}


def view_controls(*, live: bool) -> View:
    """Ask for range, smoothing and scale, and whether to freeze a live chart."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        span = st.selectbox("Range", list(RANGES), key="range", bind=URL, width=160)
        smoothing = st.slider(
            "Smoothing",
            0.0,
            0.95,
            0.6,
            0.05,
            key="smoothing",
            bind=URL,
            width=220,
            help="Weight of the past in the average that is drawn; only noisy quantities are averaged.",
        )
        log_scale = st.toggle("Log scale", key="log", bind=URL)
        if live:
            st.toggle("Pause updates", key="pause", help="Freezes the chart so that you can zoom.")
    return View(smoothing=smoothing, log_scale=log_scale, last_steps=RANGES[span])


def quantity_control(names: Sequence[str] = tuple(quantities.SERIES)) -> str:
    """Ask which quantity to draw over the steps.

    Args:
        names: Those to choose from, of ``quantities.SERIES``.
    """
    given.expect(
        "quantity", f"must be one of {', '.join(map(quantities.SERIES.__getitem__, names))}", quantities.SERIES
    )
    chosen: str = st.segmented_control(
        "Quantity",
        list(names),
        default="loss",
        required=True,
        format_func=quantities.SERIES.__getitem__,
        key="quantity",
        bind=URL,
    )
    return chosen


def draw(series: list[Curve], *, view: View, quantity: str, key: str) -> None:
    """Draw curves that may grow, with their last values as text for readers who cannot see them."""
    title = quantities.SERIES[quantity]
    figure = curves.figure(series, view=view, quantity=title)
    st.plotly_chart(figure, key=key, config=charts.CONFIG, alt=_in_words(series, title))


def exhibit(series: list[Curve], *, view: View, quantity: str, name: str, height: int) -> None:
    """Draw curves that stay as they are, and offer what was measured as files."""
    title = quantities.SERIES[quantity]
    figure = curves.figure(series, view=view, quantity=title, height=height)
    exhibits.chart(figure, tables.curve_table(series, title), name=name, alt=_in_words(series, title), zoom=True)


def _in_words(series: list[Curve], title: str) -> str:
    last = ", ".join(
        f"{curve.name} {curve.values[-1]:.4g} at step {curve.steps[-1]}" for curve in series if curve.steps
    )
    return f"{title[0].upper()}{title[1:]} over steps: {last}"
