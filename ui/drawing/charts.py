"""Charts of memory: values in, Plotly figures out. Pure; fonts and page colours come from the app's theme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import plotly.graph_objects as go

from advisor.tree import Cell
from estimator.estimate import Moment
from specs import GIB, METHODS, gib
from ui.drawing.bars import shown_parts
from ui.drawing.palette import CAPACITY_LINE, CURVES, NEUTRAL, part

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
"""Plotly's toolbar; its camera button saves a PNG."""

_SHORT: Mapping[str | None, str] = {None: "none", "qlora": "QLoRA", "lora": "LoRA", "full": "full"}
"""The labels of the usual methods in the cells of the method map."""
_STEPS: tuple[str | None, ...] = (None, "qlora", "lora", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Used memory by batch size, one row each, and sequence length, one column each."""

    used_bytes: Sequence[Sequence[int]]
    batches: Sequence[int]
    lengths: Sequence[int]
    capacity_bytes: int


def heat_map(grid: Grid, *, plan: tuple[int, int] | None = None) -> go.Figure:
    """Return used memory over batch size and sequence length, with a line where plans stop fitting.

    Args:
        grid: The memory of each combination.
        plan: Batch and length of the cell to frame.
    """
    used_bytes, batches, lengths = grid.used_bytes, grid.batches, grid.lengths
    shares = [[used / grid.capacity_bytes for used in row] for row in used_bytes]
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
    if plan is not None:
        x, y = lengths.index(plan[1]), batches.index(plan[0])
        frame = {"color": "#111318", "width": 4}
        figure.add_shape(type="rect", x0=x - 0.47, x1=x + 0.47, y0=y - 0.45, y1=y + 0.45, line=frame)
        figure.add_shape(
            type="rect", x0=x - 0.44, x1=x + 0.44, y0=y - 0.4, y1=y + 0.4, line={"color": "#FFFFFF", "width": 2}
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


def method_of(cell: Cell) -> str | None:
    """Return the method that a cell of the map stands for: the most precise that fits."""
    return "full" if cell.full_fits else cell.method


def method_label(cell: Cell) -> str:
    """Return what stands in a cell of the map."""
    name = method_of(cell)
    return _SHORT[name] if name in _SHORT else METHODS[str(name)].label


def method_map(cells: Sequence[Cell]) -> go.Figure:
    """Return a grid that names, for each model and device, the method it can be trained with."""
    models, devices = list(dict.fromkeys(cell.model for cell in cells)), list(dict.fromkeys(cell.gpu for cell in cells))
    found = {(cell.model, cell.gpu): cell for cell in cells}
    rows = [[found[model, device] for device in devices] for model in models]
    figure = go.Figure()
    figure.add_heatmap(
        z=[[_STEPS.index(name if (name := method_of(cell)) in _STEPS else "lora") for cell in row] for row in rows],
        x=[f"{found[models[0], device].memory_bytes / GIB:.0f} GiB" for device in devices],
        y=[model.rsplit("/", 1)[-1] for model in models],
        zmin=0,
        zmax=3,
        colorscale=[(0, "#EE6677"), (0.333, "#CCBB44"), (0.667, "#66CCEE"), (1, "#4477AA")],
        showscale=False,
        text=[[method_label(cell) for cell in row] for row in rows],
        texttemplate="%{text}",
        customdata=[[gib(cell.used_bytes) for cell in row] for row in rows],
        hovertemplate="%{y} on %{x}: %{text}, %{customdata}<extra></extra>",
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
            textfont={"size": 16, "color": [_ink(part(name).color) for name, _ in shown]},
            texttemplate="<b>%{label}</b><br>%{text}, %{percentRoot:.0%}",
            hovertemplate="%{label}: %{text}<extra></extra>",
            tiling={"pad": 2},
            pathbar={"visible": False},
        )
    )
    figure.update_layout(
        height=380,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        uniformtext={"minsize": 12, "mode": "hide"},
    )
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One prediction beside its measurement."""

    group: str
    """The set that it belongs to: a card, and who measured."""
    line: str
    """What was run; runs that differ only in their circumstances share a line."""
    measured: int
    predicted: int
    note: str = ""
    """What tells it from others on its line."""

    @property
    def error(self) -> float:
        """The signed share by which the prediction is off."""
        return self.predicted / self.measured - 1


def errors(dots: Sequence[Dot]) -> go.Figure:
    """Return the signed error of each prediction as a dot, one line for what was run, set by set; zero is exact."""
    figure = go.Figure()
    lines = list(dict.fromkeys((dot.group, dot.line) for dot in dots))
    level: dict[tuple[str, str], float] = {}
    at = 0.0
    for group, line in lines:
        if group not in {known for known, _ in level}:
            at -= 1.2
            figure.add_annotation(**_LABEL, y=at + 0.2, text=f"<b>{group}</b>")
        level[group, line] = at = at - 1.0
        figure.add_annotation(**_LABEL, y=at + 0.38, text=line)
        figure.add_hline(y=at, line={"color": _FAINT, "width": 1}, layer="below")  # its label stands on it
    for group, color in zip(dict.fromkeys(dot.group for dot in dots), cycle(CURVES), strict=False):
        members = [dot for dot in dots if dot.group == group]
        figure.add_scatter(
            x=[100 * dot.error for dot in members],
            y=[level[dot.group, dot.line] for dot in members],
            mode="markers",
            marker={"size": 10, "opacity": 0.8, "color": color},
            name=group,
            customdata=[_told(dot) for dot in members],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 2})
    reach = 1.15 * max((abs(100 * dot.error) for dot in dots), default=1.0)
    figure.update_layout(
        height=int(70 - 34 * at),
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        showlegend=False,
        xaxis={
            "title": "error of the prediction (%): left too little, right too much",
            "range": [-reach, reach],
            "fixedrange": True,
            "zeroline": False,
        },
        yaxis={"visible": False, "range": [at - 0.6, 0.2], "fixedrange": True},
    )
    return figure


_FAINT = "rgba(128, 128, 128, 0.3)"
_LABEL = {"x": 0, "xref": "paper", "xanchor": "left", "yanchor": "middle", "showarrow": False, "align": "left"}


def _told(dot: Dot) -> str:
    note = f", {dot.note}" if dot.note else ""
    return f"{dot.line}{note}<br>measured {gib(dot.measured)}, predicted {gib(dot.predicted)} ({dot.error:+z.1%})"


def _ink(background: str) -> str:
    """Return black or white, whichever is easier to read on a colour.

    Source:
        Relative luminance and the contrast of 4.5 to 1: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance.
    """
    shares = [int(background[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#FFFFFF" if luminance < 0.179 else "#111318"


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
