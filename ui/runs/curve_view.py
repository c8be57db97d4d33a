"""The controls of the curves; their values survive every update and are in the address."""

from typing import Literal

import streamlit as st

from ui.parts import charts, curves, given
from ui.parts.curves import Curve, View
from ui.runs import run_data

URL: Literal["query-params"] = "query-params"
RANGES = {"All": None, "Last 50 steps": 50, "Last 500 steps": 500}


def view_controls(*, live: bool) -> View:
    """Ask for range, smoothing and scale, and whether to freeze a live chart."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        span = st.selectbox("Range", list(RANGES), key="range", bind=URL, width=160)
        smoothing = st.slider("Smoothing", 0.0, 0.95, 0.6, 0.05, key="smoothing", bind=URL, width=220)
        log_scale = st.toggle("Log scale", key="log", bind=URL)
        if live:
            st.toggle("Pause updates", key="pause", help="Freezes the chart so that you can zoom.")
    return View(smoothing=smoothing, log_scale=log_scale, last_steps=RANGES[span])


def quantity_control() -> str:
    """Ask which quantity to draw over the steps."""
    given.expect("quantity", f"must be one of {', '.join(run_data.SERIES.values())}", run_data.SERIES)
    chosen: str = st.segmented_control(
        "Quantity",
        list(run_data.SERIES),
        default="loss",
        required=True,
        format_func=run_data.SERIES.__getitem__,
        key="quantity",
        bind=URL,
    )
    return chosen


def draw(series: list[Curve], *, view: View, quantity: str, key: str, height: int = 320) -> None:
    """Draw curves, with their last values as text for readers who cannot see them."""
    title = run_data.SERIES[quantity]
    last = ", ".join(
        f"{curve.name} {curve.values[-1]:.4g} at step {curve.steps[-1]}" for curve in series if curve.steps
    )
    st.plotly_chart(
        curves.figure(series, view=view, quantity=title, height=height),
        key=key,
        config=charts.CONFIG,
        alt=f"{title[0].upper()}{title[1:]} over steps: {last}",
    )
