"""Shows comparisons on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.replay.live_tensors import Tensors
from specs import METHODS, FinetunePlan
from ui.compare import comparison
from ui.compare.comparison import Axis, Cell
from ui.parts import charts, given, links, notices, palette, text
from ui.plan import planning
from ui.plan.forms import URL
from ui.plan.planning import Request

_HEAT_ROWS, _HEAT_COLUMNS = "per_device_train_batch_size", "max_length"
_MOST_TENSORS = 12


def pivot(asked: Request, plan: FinetunePlan) -> None:
    """Show used memory for every combination of two settings' values."""
    axes = comparison.axes()
    left, right = st.columns(2)
    with left:
        rows = axis("Rows", list(axes), axes)
    with right:
        columns = axis("Columns", [name for name in ("device", *axes) if name != rows[0]], axes)
    point = comparison.start(asked, plan, (rows[0], columns[0]))
    with notices.progress("Estimating every combination") as progress:
        cells = comparison.table(point, (axes[rows[0]], rows[1]), (axes[columns[0]], columns[1]), progress)
    table = {rows[0]: [row_link(rows[0], value) for value in rows[1]]}
    for index, value in enumerate(columns[1]):
        table[text.plain(comparison.label(columns[0], value))] = [cell(line[index]) for line in cells]
    st.table(table, border="horizontal", hide_index=True, alt=f"Used memory by {rows[0]} and {columns[0]}")
    st.caption("All other settings stay as planned; only the number formats follow the device.")
    download(comparison.as_csv("used_bytes", rows[1], columns[1], comparison.used_bytes(cells)))


def axis(title: str, names: list[str], axes: Mapping[str, Axis]) -> tuple[str, Sequence[Any]]:
    """Ask which setting to vary in the rows or columns, and over which values."""
    name = st.selectbox(title, list(dict.fromkeys(names)), key=title.lower(), bind=URL, help="The setting to vary.")
    chosen = axes[name]
    labels = {value: comparison.label(name, value) for value in chosen.values}
    given.expect(f"{title.lower()}_{name}", f"must be some of {', '.join(labels.values())}", labels)
    values = st.pills(
        f"Values of {name}",
        chosen.values,
        selection_mode="multi",
        default=chosen.usual,
        format_func=lambda value: comparison.label(name, value),
        key=f"{title.lower()}_{name}",
        bind=URL,
        wrap=True,
    )
    return name, values or chosen.usual


def row_link(name: str, value: Any) -> str:
    """Return the head of a row as a link to the plan with its value."""
    words = comparison.label(name, value)
    field = {"device": "gpu"}.get(name, name)
    chosen = words if name == "method" else str(value) if isinstance(value, str) else text.value(value)
    return links.to_plan(f"**{text.plain(words)}**", st.query_params.to_dict(), **{field: chosen})


def cell(shown: Cell) -> str:
    """Return one combination as Markdown."""
    if shown.estimate is None:
        return ":gray[not possible]"
    verdict, used = shown.estimate.verdict, text.size(shown.estimate.used_bytes)
    return f":{palette.VERDICT_COLORS[verdict]}[{palette.VERDICT_ICONS[verdict]}\N{NO-BREAK SPACE}{used}]"


def heat_map(asked: Request, plan: FinetunePlan) -> None:
    """Show batch size against length in colour, with a line where plans stop fitting."""
    axes = comparison.axes()
    batches, lengths = axes[_HEAT_ROWS], axes[_HEAT_COLUMNS]
    point = comparison.start(asked, plan, (_HEAT_ROWS, _HEAT_COLUMNS))
    with notices.progress("Estimating every combination") as progress:
        cells = comparison.table(point, (batches, batches.values), (lengths, lengths.values), progress)
    used = [[found.estimate.used_bytes if found.estimate else 0 for found in line] for line in cells]
    capacity = asked.situation.available_bytes
    st.plotly_chart(
        charts.heat_map(used, batches=batches.values, lengths=lengths.values, capacity_bytes=capacity),
        key="heat_map",
        config=charts.CONFIG,
        alt=f"Used memory by batch size and length against {text.size(capacity)}",
    )
    st.caption(
        "GiB used by sequences of each length; all other settings stay as planned. "
        "Left of and below the line, plans fit."
    )
    download(comparison.as_csv("used_bytes", batches.values, lengths.values, comparison.used_bytes(cells)))


def devices_needed(asked: Request, usual: str) -> None:
    """Show how many devices models of up to hundreds of billions of parameters need."""
    labels = {METHODS[name].label: name for name in comparison.DIVIDED}
    chosen = st.segmented_control(
        "Method in this table",
        list(labels),
        default=METHODS[usual].label if usual in comparison.DIVIDED else next(iter(labels)),
        required=True,
        key="devices_method",
        bind=URL,
    )
    with notices.progress("Counting devices") as progress:
        found = comparison.numbers_of_devices(asked.situation, labels[chosen], progress)
    cards = list(next(iter(found.values())))
    st.table(
        {
            "Model": [f"**{text.plain(model)}**" for model in found],
            **{
                text.plain(card): [_number(model, card, line[card], chosen) for model, line in found.items()]
                for card in cards
            },
        },
        border="horizontal",
        hide_index=True,
        alt=f"How many devices each model needs with {chosen}",
    )
    st.caption(
        "The smallest plan of the method: one sequence per device, with gradient checkpointing; two or more devices "
        "shard it with FSDP. Click a number to open its plan."
    )
    download(comparison.as_csv("devices", list(found), cards, [list(line.values()) for line in found.values()]))


def download(file: str) -> None:
    """Offer a table as CSV."""
    st.download_button("CSV", file, "comparison.csv", "text/csv", icon=":material/download:", on_click="ignore")


def _number(model: str, card: str, number: int | None, method: str) -> str:
    """Return a number of devices as a link to the plan, or that no number is enough."""
    if number is None:
        return ":gray[too large]"
    sharding = {"sharding": "fsdp"} if number > 1 else {}
    changes = {"model": model, "gpu": card, "num_gpus": str(number), "method": method, **sharding}
    return links.to_plan(f"{number:,}", {}, **changes)


def step(asked: Request, plan: FinetunePlan, estimate: MemoryEstimate) -> None:
    """Show one training step: what is in memory when, where the peak is, and which tensors make it up."""
    phases = estimate.phases
    st.markdown(f"Memory peaks in the **{max(phases, key=phases.__getitem__)}** phase.")
    st.plotly_chart(
        charts.timeline(estimate.timeline, capacity_bytes=estimate.capacity_bytes),
        key="timeline",
        config=charts.CONFIG,
        alt=f"Allocated memory through one training step, at most {text.size(estimate.peak_allocated_bytes)}",
    )
    cells = st.grid(min_column_width=130)
    for name, peak in phases.items():
        cells.metric(
            name.capitalize(), text.size(peak), border=True, help=f"Peak of allocated memory in the {name} phase."
        )
    st.caption(
        f"{text.size(estimate.peak_allocated_bytes)} allocated by tensors, "
        f"{text.size(estimate.peak_reserved_bytes)} reserved by PyTorch, "
        f"{text.size(estimate.used_bytes)} used including the device runtime."
    )
    if plan.num_gpus == 1:
        tensors(planning.alive(asked.situation.model, asked.situation.as_priced(plan), asked.gpu))


def tensors(found: Sequence[Tensors]) -> None:
    """Show the largest tensors in memory at the peak."""
    shown = found[:_MOST_TENSORS]
    st.markdown("**Tensors in memory at the peak of forward and backward pass**, largest first")
    st.table(
        {
            "Part": [palette.part(entry.component).label for entry in shown],
            "Tensors": [f"{entry.count:,}" for entry in shown],
            "Each": [text.size(entry.bytes_each) for entry in shown],
            "Total": [text.size(entry.total_bytes) for entry in shown],
        },
        border="horizontal",
        hide_index=True,
        alt=f"The {len(shown)} largest groups of tensors at the peak",
    )
    if rest := sum(entry.total_bytes for entry in found[_MOST_TENSORS:]):
        st.caption(f"All other tensors: {text.size(rest)}.")


def parts(estimate: MemoryEstimate) -> None:
    """Show what the memory at the peak consists of, and what each part is."""
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
            "Size": [text.size(size) for _, size in shown],
            "What it is": [entry.meaning for entry, _ in shown],
        },
        border="horizontal",
        hide_index=True,
        alt="The parts of the memory",
    )


def method_map() -> None:
    """Show which method popular models can be trained with on common sizes of cards."""
    with st.spinner("Finding the smallest plan of each method ..."):
        cells = comparison.map_of_methods()
    if not cells:
        st.caption("No model is traced yet; choose one on the left first.")
        return
    st.plotly_chart(
        charts.method_map(cells),
        key="method_map",
        config=charts.CONFIG,
        alt="; ".join(f"{cell.model} on {cell.gpu}: {charts.METHOD_LABELS[cell.method]}" for cell in cells[:12]),
    )
    st.caption(
        "The most precise method whose smallest plan leaves a tenth of the memory free; "
        "full means full fine-tuning; none means that no method does."
    )
