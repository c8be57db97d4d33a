"""Comparisons on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from estimator.estimate import MemoryEstimate
from specs import FinetunePlan
from ui import charts, comparing, links, palette, text
from ui.comparing import Axis, Cell, Point
from ui.forms import URL
from ui.planning import Request

_HEAT_ROWS, _HEAT_COLUMNS = "per_device_train_batch_size", "max_length"


def pivot(asked: Request, plan: FinetunePlan) -> None:
    """Show used memory for every value of one choice against every value of another."""
    axes = comparing.axes()
    left, right = st.columns(2)
    with left:
        rows = axis("Rows", list(axes), axes)
    with right:
        columns = axis("Columns", [name for name in ("device", *axes) if name != rows[0]], axes)
    point = Point(model=asked.situation.model, plan=plan, gpu=asked.gpu)
    with st.spinner("Pricing every combination ..."):
        cells = comparing.table(point, (axes[rows[0]], rows[1]), (axes[columns[0]], columns[1]))
    if (rows[0], columns[0]) == (_HEAT_ROWS, _HEAT_COLUMNS):
        heat_map(cells, rows[1], columns[1], asked.situation.available_bytes)
    table = {rows[0]: [row_link(rows[0], value) for value in rows[1]]}
    for index, value in enumerate(columns[1]):
        table[text.plain(comparing.label(columns[0], value))] = [cell(line[index]) for line in cells]
    st.table(table, border="horizontal", hide_index=True, alt=f"Used memory by {rows[0]} and {columns[0]}")
    st.caption("Everything else stays as planned; only the number formats follow the device.")
    file = comparing.as_csv(cells, rows[1], columns[1])
    st.download_button("CSV", file, "comparison.csv", "text/csv", icon=":material/download:", on_click="ignore")


def axis(title: str, names: list[str], axes: Mapping[str, Axis]) -> tuple[str, Sequence[Any]]:
    """Ask which choice stands in the rows or columns, and which of its values."""
    name = st.selectbox(title, list(dict.fromkeys(names)), key=title.lower(), bind=URL, help="What is varied.")
    chosen = axes[name]
    values = st.pills(
        f"Values of {name}",
        chosen.values,
        selection_mode="multi",
        default=chosen.usual,
        format_func=lambda value: comparing.label(name, value),
        key=f"{title.lower()}_{name}",
        bind=URL,
        wrap=True,
    )
    return name, values or chosen.usual


def row_link(name: str, value: Any) -> str:
    """Return a row's head as a link to the plan with this choice."""
    words = comparing.label(name, value)
    field = {"device": "gpu"}.get(name, name)
    chosen = words if name == "method" else str(value) if isinstance(value, str) else text.value(value)
    return links.to_plan(f"**{text.plain(words)}**", st.query_params.to_dict(), **{field: chosen})


def cell(shown: Cell) -> str:
    """Return one combination as Markdown."""
    if shown.estimate is None:
        return ":gray[not possible]"
    verdict, used = shown.estimate.verdict, text.size(shown.estimate.used_bytes)
    return f":{palette.VERDICT_COLORS[verdict]}[{palette.VERDICT_ICONS[verdict]}\N{NO-BREAK SPACE}{used}]"


def heat_map(cells: Sequence[Sequence[Cell]], batches: Sequence[int], lengths: Sequence[int], capacity: int) -> None:
    """Show batch against length in colour, with the line where it stops fitting."""
    used = [[found.estimate.used_bytes if found.estimate else 0 for found in line] for line in cells]
    st.plotly_chart(
        charts.heat_map(used, batches=batches, lengths=lengths, capacity_bytes=capacity),
        key="heat_map",
        config=charts.CONFIG,
        alt=f"Used memory by batch and length against {text.size(capacity)}",
    )


def step(estimate: MemoryEstimate) -> None:
    """Show one training step: what is alive when, and where the peak is."""
    phases = estimate.phases
    st.markdown(f"The peak is in the **{max(phases, key=phases.__getitem__)}** phase of a training step.")
    st.plotly_chart(
        charts.timeline(estimate.timeline, capacity_bytes=estimate.capacity_bytes),
        key="timeline",
        config=charts.CONFIG,
        alt=f"Allocated memory through one training step, at most {text.size(estimate.peak_allocated_bytes)}",
    )
    cells = st.grid(min_column_width=130)
    for name, peak in phases.items():
        cells.metric(
            name.capitalize(), text.size(peak), border=True, help=f"Most that is allocated in the {name} phase."
        )
    st.caption(
        f"Allocated {text.size(estimate.peak_allocated_bytes)} by tensors, "
        f"reserved {text.size(estimate.peak_reserved_bytes)} by PyTorch, "
        f"used {text.size(estimate.used_bytes)} with what the device runtime takes."
    )


def parts(estimate: MemoryEstimate) -> None:
    """Show where the bytes are at the peak, and what each part is."""
    st.plotly_chart(
        charts.treemap(estimate.components),
        key="treemap",
        config=charts.CONFIG,
        alt=f"Parts of {text.size(estimate.used_bytes)}",
    )
    shown = [(palette.part(name), size) for name, size in estimate.components.items() if size > 0]
    st.table(
        {
            "Part": [entry.label for entry, _ in shown],
            "Bytes": [text.size(size) for _, size in shown],
            "What it is": [entry.meaning for entry, _ in shown],
        },
        border="horizontal",
        hide_index=True,
        alt="The parts of the memory",
    )


def method_map() -> None:
    """Show which method usual models train with on cards of usual sizes."""
    with st.spinner("Searching the smallest plan of each method ..."):
        cells = comparing.map_of_methods()
    if not cells:
        st.caption("No model is traced yet; choose one on the left first.")
        return
    st.plotly_chart(
        charts.method_map(cells),
        key="method_map",
        config=charts.CONFIG,
        alt="; ".join(f"{cell.model} on {cell.gpu}: {charts.METHOD_WORDS[cell.method]}" for cell in cells[:12]),
    )
    st.caption(
        "The most precise method whose smallest plan leaves a tenth of the memory free; "
        "all means that every weight can be trained."
    )
