"""Charts of memory: values in, Plotly figures out. Pure; fonts and page colours come from the app's theme."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import plotly.graph_objects as go

from advisor.tree import Cell
from estimator.estimate import Moment
from specs import GIB, gib
from ui.parts.bars import shown_parts
from ui.parts.palette import CAPACITY_LINE, CURVES, NEUTRAL, part

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
"""Plotly's toolbar; its camera button saves a PNG."""
STATIC = {"displayModeBar": False, "scrollZoom": False, "doubleClick": False}
"""For charts without zoom."""

METHOD_LABELS: Mapping[str | None, str] = {None: "none", "qlora": "QLoRA", "lora": "LoRA", "full": "full"}
"""The labels in the cells of the method map."""
_STEPS: tuple[str | None, ...] = (None, "qlora", "lora", "full")


def heat_map(
    used_bytes: Sequence[Sequence[int]], *, batches: Sequence[int], lengths: Sequence[int], capacity_bytes: int
) -> go.Figure:
    """Return used memory over batch size and sequence length, with a line where plans stop fitting."""
    shares = [[used / capacity_bytes for used in row] for row in used_bytes]
    across, up = list(range(len(lengths))), list(range(len(batches)))
    figure = go.Figure()
    figure.add_heatmap(
        z=[[min(share, 1.5) for share in row] for row in shares],
        x=across,
        y=up,
        zmin=0,
        zmax=1.5,
        colorscale=[(0, "#E6F0F7"), (0.6, "#4477AA"), (0.6667, "#2B4C6F"), (0.6668, "#F6C9A8"), (1, "#C2452D")],
        colorbar={"title": {"text": "of device memory"}, "tickformat": ".0%", "tickvals": [0, 0.5, 1, 1.5]},
        text=[[f"{used / GIB:,.1f}" for used in row] for row in used_bytes],
        texttemplate="%{text}",
        customdata=[
            [
                f"{batch:,} sequences of {length:,} tokens: {gib(used)}"
                for length, used in zip(lengths, row, strict=True)
            ]
            for batch, row in zip(batches, used_bytes, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    figure.add_scatter(
        **_fitting_edge(shares), mode="lines", line={"color": CAPACITY_LINE, "width": 3}, hoverinfo="skip"
    )
    figure.update_layout(
        height=100 + 38 * len(batches),
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        showlegend=False,
        xaxis={
            "title": "max_length (tokens)",
            "tickvals": across,
            "ticktext": [f"{length:,}" for length in lengths],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis={
            "title": "batch size (sequences)",
            "tickvals": up,
            "ticktext": [f"{batch:,}" for batch in batches],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    return figure


def method_map(cells: Sequence[Cell]) -> go.Figure:
    """Return a grid that names, for each model and device, the method it can be trained with."""
    models, devices = list(dict.fromkeys(cell.model for cell in cells)), list(dict.fromkeys(cell.gpu for cell in cells))
    found = {(cell.model, cell.gpu): cell for cell in cells}
    rows = [[found[model, device] for device in devices] for model in models]
    figure = go.Figure()
    figure.add_heatmap(
        z=[[_STEPS.index("full" if cell.full_fits else cell.method) for cell in row] for row in rows],
        x=[f"{found[models[0], device].memory_bytes / GIB:.0f} GiB" for device in devices],
        y=[model.rsplit("/", 1)[-1] for model in models],
        zmin=0,
        zmax=3,
        colorscale=[(0, "#EE6677"), (0.333, "#CCBB44"), (0.667, "#66CCEE"), (1, "#4477AA")],
        showscale=False,
        text=[["full" if cell.full_fits else METHOD_LABELS[cell.method] for cell in row] for row in rows],
        texttemplate="%{text}",
        customdata=[[gib(cell.used_bytes) for cell in row] for row in rows],
        hovertemplate="%{y} on %{x}: %{text}, needs at least %{customdata}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    figure.update_layout(
        height=90 + 30 * len(models),
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis={"side": "top", "type": "category", "fixedrange": True},
        yaxis={"autorange": "reversed", "fixedrange": True, "automargin": True},
    )
    return figure


def timeline(moments: Sequence[Moment], *, capacity_bytes: int) -> go.Figure:
    """Return the memory allocated during one training step as stacked areas, phase by phase, with the peak marked."""
    figure = go.Figure()
    at = list(range(len(moments)))
    for name in shown_parts([moment.components for moment in moments]):
        figure.add_scatter(
            x=at,
            y=[moment.components.get(name, 0) / GIB for moment in moments],
            name=part(name).label,
            mode="lines",
            line={"width": 0, "shape": "hv"},
            fillcolor=part(name).color,
            stackgroup="parts",
            customdata=[gib(moment.components.get(name, 0)) for moment in moments],
            hovertemplate=f"{part(name).label}: %{{customdata}}<extra></extra>",
        )
    peak = max(at, key=lambda index: moments[index].allocated_bytes)
    highest = moments[peak].allocated_bytes
    figure.add_annotation(
        x=peak, y=highest / GIB, text=f"peak {gib(highest)}, {moments[peak].phase}", yanchor="bottom", arrowhead=0
    )
    for phase in dict.fromkeys(moment.phase for moment in moments):
        inside = [index for index in at if moments[index].phase == phase]
        figure.add_vline(x=inside[0], line={"color": NEUTRAL, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=(inside[0] + inside[-1]) / 2, y=1.02, yref="paper", text=phase, showarrow=False, yanchor="bottom"
        )
    if capacity_bytes < 1.6 * highest:
        figure.add_hline(y=capacity_bytes / GIB, line={"color": CAPACITY_LINE, "width": 2, "dash": "dash"})
    figure.update_layout(
        height=380,
        margin={"l": 0, "r": 0, "t": 28, "b": 0},
        hovermode="x unified",
        xaxis={"showticklabels": False, "title": "one training step", "fixedrange": True},
        yaxis={"ticksuffix": " GiB", "rangemode": "tozero", "fixedrange": True},
        legend={"orientation": "h", "y": -0.12, "traceorder": "normal"},
    )
    return figure


def treemap(parts: Mapping[str, int]) -> go.Figure:
    """Return the parts of the memory as nested areas."""
    shown = [(name, size) for name, size in parts.items() if size > 0]
    figure = go.Figure(
        go.Treemap(
            labels=[part(name).label for name, _ in shown],
            parents=[""] * len(shown),
            values=[size for _, size in shown],
            marker={"colors": [part(name).color for name, _ in shown]},
            text=[gib(size) for _, size in shown],
            texttemplate="%{label}<br>%{text}<br>%{percentRoot:.0%}",
            hovertemplate="%{label}: %{text}<extra></extra>",
        )
    )
    figure.update_layout(height=320, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    return figure


def predicted_against_measured(rows: Sequence[tuple[str, str, int, int]]) -> go.Figure:
    """Return a scatter plot of predicted over measured bytes; points on the diagonal were predicted exactly.

    Args:
        rows: Group, description, measured bytes, predicted bytes.
    """
    figure = go.Figure()
    reach = max([max(measured, predicted) for _, _, measured, predicted in rows], default=GIB) / GIB * 1.05
    figure.add_scatter(
        x=[0, reach], y=[0, reach], mode="lines", line={"color": NEUTRAL, "dash": "dot"}, name="exact", hoverinfo="skip"
    )
    for group, color in zip(dict.fromkeys(row[0] for row in rows), cycle(CURVES), strict=False):
        members = [row for row in rows if row[0] == group]
        figure.add_scatter(
            x=[measured / GIB for _, _, measured, _ in members],
            y=[predicted / GIB for _, _, _, predicted in members],
            mode="markers",
            marker={"size": 9, "opacity": 0.85, "color": color},
            name=group,
            customdata=[
                (label, gib(measured), gib(predicted), f"{predicted / measured - 1:+.1%}")
                for _, label, measured, predicted in members
            ],
            hovertemplate="%{customdata[0]}<br>measured %{customdata[1]}, predicted %{customdata[2]} (%{customdata[3]})"
            "<extra></extra>",
        )
    figure.update_layout(
        height=430,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis={"title": "measured (GiB)", "range": [0, reach]},
        yaxis={"title": "predicted (GiB)", "range": [0, reach]},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def _fitting_edge(shares: Sequence[Sequence[float]]) -> dict[str, list[float | None]]:
    """Return the stepped line between the cells that fit and those that do not, in cell coordinates."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for j, row in enumerate(shares):
        for i, share in enumerate(row):
            if share > 1:
                continue
            if i + 1 < len(row) and row[i + 1] > 1:
                xs += [i + 0.5, i + 0.5, None]
                ys += [j - 0.5, j + 0.5, None]
            if j + 1 < len(shares) and shares[j + 1][i] > 1:
                xs += [i - 0.5, i + 0.5, None]
                ys += [j + 0.5, j + 0.5, None]
    return {"x": xs, "y": ys}
