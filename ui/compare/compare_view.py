"""Shows comparisons on the page."""

from collections.abc import Mapping, Sequence

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.replay.live_tensors import Tensors
from specs import METHODS, FinetunePlan
from ui.compare import comparison
from ui.drawing import bars, charts, palette
from ui.parts import exhibits, links, notices, text
from ui.plan import planning
from ui.plan.forms import URL
from ui.plan.planning import Request

_HEAT_ROWS, _HEAT_COLUMNS = "per_device_train_batch_size", "max_length"
_MOST_TENSORS = 12


def heat_map(asked: Request, plan: FinetunePlan, about: Mapping[str, str]) -> None:
    """Show batch size against length in colour, with the plan and a line where plans stop fitting."""
    axes = comparison.axes(asked, plan)
    batches, lengths = axes[_HEAT_ROWS], axes[_HEAT_COLUMNS]
    point = comparison.start(asked, plan, (_HEAT_ROWS, _HEAT_COLUMNS))
    with notices.progress("Estimating every combination") as progress:
        cells = comparison.table(point, (batches, batches.values), (lengths, lengths.values), progress)
    used = [[found.estimate.used_bytes if found.estimate else 0 for found in line] for line in cells]
    capacity = asked.situation.available_bytes
    grid = charts.Grid(used_bytes=used, batches=batches.values, lengths=lengths.values, capacity_bytes=capacity)
    at = (plan.per_device_train_batch_size, plan.max_length)
    exhibits.chart(
        charts.heat_map(grid, plan=at),
        {
            _HEAT_ROWS: [batch for batch in batches.values for _ in lengths.values],
            _HEAT_COLUMNS: [length for _ in batches.values for length in lengths.values],
            "used_bytes": [size for line in used for size in line],
            "verdict": [found.estimate.verdict if found.estimate else found.refusal for row in cells for found in row],
        },
        name="heat_map",
        alt=f"Used memory by batch size and length against {text.size(capacity)}; the plan is at {at[0]} x {at[1]:,}",
        about={name: value for name, value in about.items() if name != "verdict"},
    )
    st.caption(
        f"GiB used where every sequence has that length; all other settings stay as planned. The frame is the plan; "
        f"left of and below the line, plans fit. {limits(grid, at)}"
    )


def limits(grid: charts.Grid, plan: tuple[int, int]) -> str:
    """Return in a sentence how far batch and length of a plan can grow on their own."""
    batch, length = plan
    row = grid.used_bytes[grid.batches.index(batch)]
    column = [line[grid.lengths.index(length)] for line in grid.used_bytes]
    longest = _last_that_fits(grid.lengths, row, grid.capacity_bytes)
    largest = _last_that_fits(grid.batches, column, grid.capacity_bytes)
    if longest is None or largest is None:
        return f"Nothing fits at batch {batch:,} or at {length:,} tokens."
    return (
        f"Of the sizes shown, {longest:,} tokens is the longest that fits at batch {batch:,}, "
        f"and {largest:,} the largest batch at {length:,} tokens."
    )


def _last_that_fits(values: Sequence[int], used: Sequence[int], capacity: int) -> int | None:
    return max((value for value, size in zip(values, used, strict=True) if 0 < size <= capacity), default=None)


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
    exhibits.table(
        {
            "Model": [f"**{text.plain(model)}**" for model in found],
            **{
                text.plain(card): [_number(model, card, line[card], chosen) for model, line in found.items()]
                for card in cards
            },
        },
        name="devices",
        alt=f"How many devices each model needs with {chosen}",
        about={"method": str(chosen)},
    )
    st.caption(
        "One device where what Plan advises for the method fits there. Two or more shard its smallest plan with FSDP: "
        "one sequence on each device, with gradient checkpointing. Click a number to open its plan."
    )


def _number(model: str, card: str, number: int | None, method: str) -> str:
    """Return a number of devices as a link to the plan, or that no number is enough."""
    if number is None:
        return ":gray[too large]"
    sharding = {"sharding": "fsdp"} if number > 1 else {}
    changes = {"model": model, "gpu": card, "num_gpus": str(number), "method": method, **sharding}
    return links.to_plan(f"{number:,}", {}, **changes)


def step(asked: Request, plan: FinetunePlan, estimate: MemoryEstimate, about: Mapping[str, str]) -> None:
    """Show one training step: what is in memory when, where the peak is, and which tensors make it up."""
    phases = estimate.phases
    st.markdown(f"Memory peaks in the **{max(phases, key=phases.__getitem__)}** phase.")
    moments = estimate.timeline
    exhibits.chart(
        charts.timeline(moments, capacity_bytes=estimate.capacity_bytes),
        {
            "phase": [moment.phase for moment in moments],
            **{
                f"{name}_bytes": [moment.components.get(name, 0) for moment in moments]
                for name in bars.shown_parts([moment.components for moment in moments])
            },
        },
        name="timeline",
        alt=f"Allocated memory through one training step, at most {text.size(estimate.peak_allocated_bytes)}",
        about=about,
    )
    cells = st.grid(min_column_width=130)
    for name, peak in phases.items():
        cells.metric(name.capitalize(), text.size(peak), border=True)
    st.caption(
        "Peak of allocated memory in each phase. "
        f"{text.size(estimate.peak_allocated_bytes)} allocated by tensors, "
        f"{text.size(estimate.peak_reserved_bytes)} reserved by PyTorch, "
        f"{text.size(estimate.used_bytes)} used including the device runtime."
    )
    if plan.num_gpus == 1:
        tensors(planning.alive(asked.situation.model, asked.situation.as_priced(plan), asked.gpu), about)


def tensors(found: Sequence[Tensors], about: Mapping[str, str]) -> None:
    """Show the largest tensors in memory at the peak, and where in the model they are."""
    shown = found[:_MOST_TENSORS]
    st.markdown("**Tensors in memory at the peak of forward and backward pass**, largest first")
    exhibits.table(
        {
            "Part": [palette.part(entry.component).label for entry in shown],
            "Where": [entry.place for entry in shown],
            "Tensors": [f"{entry.count:,}" for entry in shown],
            "Each": [text.size(entry.bytes_each) for entry in shown],
            "Total": [text.size(entry.total_bytes) for entry in shown],
        },
        name="tensors",
        alt=f"The {len(shown)} largest groups of tensors at the peak",
        about=about,
        values={
            "part": [entry.component for entry in found],
            "place": [entry.place for entry in found],
            "tensors": [entry.count for entry in found],
            "bytes_each": [entry.bytes_each for entry in found],
            "total_bytes": [entry.total_bytes for entry in found],
        },
    )
    if rest := sum(entry.total_bytes for entry in found[_MOST_TENSORS:]):
        st.caption(f"All other tensors: {text.size(rest)}.")


def parts(estimate: MemoryEstimate, about: Mapping[str, str]) -> None:
    """Show what the memory at the peak consists of, and what each part is."""
    shown = [(palette.part(name), size) for name, size in estimate.components.items() if size > 0]
    exhibits.chart(
        charts.treemap(estimate.components),
        {"part": [entry.label for entry, _ in shown], "bytes": [size for _, size in shown]},
        name="treemap",
        alt=f"Parts of {text.size(estimate.used_bytes)}",
        about=about,
    )
    exhibits.table(
        {
            "Part": [entry.label for entry, _ in shown],
            "Size": [text.size(size) for _, size in shown],
            "Share": [f"{size / estimate.used_bytes:.1%}" for _, size in shown],
            "What it is": [entry.meaning for entry, _ in shown],
        },
        name="parts",
        alt="The parts of the memory",
        about=about,
    )


def method_map(asked: Request) -> None:
    """Show which method is advised for popular models on common sizes of cards."""
    with st.spinner("Finding the plan of each model on each card ..."):
        cells = comparison.map_of_methods(asked.situation)
    if not cells:
        st.caption("No model is traced for this task yet; choose one under Plan first.")
        return
    exhibits.chart(
        charts.method_map(cells),
        {
            "model": [cell.model for cell in cells],
            "card": [cell.gpu for cell in cells],
            "method": [charts.method_label(cell) for cell in cells],
            "used_bytes": [cell.used_bytes for cell in cells],
        },
        name="method_map",
        alt="; ".join(f"{cell.model} on {cell.gpu}: {charts.method_label(cell)}" for cell in cells[:12]),
    )
    st.caption(
        "The method that Plan advises for your data and goal with nothing set by hand; full means that full "
        f"fine-tuning fits too; none means that nothing fits. {comparison.SIZES}"
    )
