"""Shows predictions beside measurements on the page."""

from collections.abc import Sequence

import streamlit as st

from estimator.accuracy.comparison import KINDS, Comparison, Kind, summary
from ui.accuracy import predictions
from ui.drawing import charts
from ui.drawing.charts import Dot
from ui.parts import exhibits, text
from ui.parts.writing import Columns

HOW = """
The estimate does not come from a formula. A tracer runs the **real training step** of the model, with the code of
transformers, PEFT and bitsandbytes that a run would use, on tensors that have shapes but no contents. It records what
is allocated and freed, when, and for what. This recording, the *tape*, is then replayed for your batch size, length,
rank, optimizer and device by the rules of PyTorch's caching allocator.

- **Allocated** is the memory of all tensors: `torch.cuda.max_memory_allocated`.
- **Reserved** is what PyTorch holds, including its cache: `torch.cuda.max_memory_reserved`.
- **Used** is what nvidia-smi shows: reserved memory plus the CUDA context. The verdict is based on this number.

**What it leaves out**: other programs on the device, a display attached to it, memory leaks in the driver, and kernels
that choose their workspace at run time. The likely range of each estimate covers these as far as the runs on this page
show them.
"""


def traced(cold: Sequence[int], every: Sequence[int]) -> list[int]:
    """Return the rows to show; those that need a trace are only offered, since each takes seconds."""
    if not cold:
        return list(every)
    wanted = st.toggle(
        f"Trace {len(cold)} more rows",
        key="trace",
        bind="query-params",
    )
    st.caption("Each of these rows needs a trace of its own, which takes a few seconds once.")
    if not wanted:
        return [number for number in every if number not in set(cold)]
    bar = st.progress(0.0, "Tracing ...")
    for done, number in enumerate(cold, 1):
        predictions.comparison(number)
        bar.progress(done / len(cold), f"Traced {done} of {len(cold)}")
    bar.empty()
    return list(every)


def published(comparisons: Sequence[Comparison]) -> None:
    """Show the errors, the chart and the table of the published runs."""
    if not comparisons:
        st.caption("No rows traced yet.")
        return
    cells = st.grid(min_column_width=250)
    for kind in KINDS:
        found = summary(comparisons, kind)
        if found.n:
            cells.metric(
                f"{kind.capitalize()}, mean error of {found.n} runs",
                f"{found.mean_abs_error:.1%}",
                f"{found.worst_under:+z.1%} to {found.worst_over:+z.1%}",
                delta_color="off",
                delta_arrow="off",
                border=True,
            )
    dots = predictions.dots(comparisons)
    st.markdown(
        "**Error of the allocated memory**, by card and source; runs that differ only in their conditions share a line"
    )
    exhibits.chart(
        charts.errors(dots),
        _columns(dots),
        name="errors",
        alt=f"Signed errors of {len(dots)} predictions, {_span(dots)}",
    )
    kinds = [predictions.first_measured(found.row) for found in comparisons]
    exhibits.table(
        {
            "Run": [text.plain(predictions.description(found.row)) for found in comparisons],
            "Conditions": [text.plain(predictions.conditions(found.row)) for found in comparisons],
            "Device": [text.plain(predictions.device(found.row)) for found in comparisons],
            "Memory": kinds,
            "Measured": [
                text.size(found.row.measured[kind]) if kind in found.row.measured else "ran out"
                for found, kind in zip(comparisons, kinds, strict=True)
            ],
            "Predicted": [
                text.size(found.predicted[kind]) if kind in found.predicted else ""
                for found, kind in zip(comparisons, kinds, strict=True)
            ],
            "Error": [_error(found, kind) for found, kind in zip(comparisons, kinds, strict=True)],
            "Source": [predictions.linked(found.row.source) for found in comparisons],
        },
        name="published",
        alt="Every published run with its prediction",
    )
    st.caption(
        "Measured and predicted are the allocated memory, or what the run tells instead, of each device where there "
        "are several. Conditions: the attention kernel, how several devices share the model, and prepare_kbit where "
        "PEFT cast what is not quantized to 32 bits."
    )


def own(dots: Sequence[Dot]) -> None:
    """Show the runs on this machine in the same way."""
    if not dots:
        st.caption(
            "No run on this machine has been measured yet. Each run records its measured peak beside the predicted one."
        )
        return
    exhibits.chart(
        charts.errors(dots),
        _columns(dots),
        name="own",
        alt=f"Signed errors of the used memory of {len(dots)} runs on this machine, {_span(dots)}",
    )
    exhibits.table(
        {
            "Run": [text.plain(f"{dot.line}, {dot.note}") for dot in dots],
            "Measured": [text.size(dot.measured) for dot in dots],
            "Predicted": [text.size(dot.predicted) for dot in dots],
            "Error": [f"{dot.error:+z.1%}" for dot in dots],
        },
        name="own_runs",
        alt="Every run on this machine with its prediction",
    )


def _columns(dots: Sequence[Dot]) -> Columns:
    return {
        "set": [dot.group for dot in dots],
        "run": [dot.line for dot in dots],
        "note": [dot.note for dot in dots],
        "measured_bytes": [dot.measured for dot in dots],
        "predicted_bytes": [dot.predicted for dot in dots],
        "error": [f"{dot.error:.5f}" for dot in dots],
    }


def _span(dots: Sequence[Dot]) -> str:
    errors = [dot.error for dot in dots] or [0.0]
    return f"from {min(errors):+z.1%} to {max(errors):+z.1%}"


def method() -> None:
    """Explain how the estimate is made and what it leaves out."""
    st.markdown(HOW)


def _error(found: Comparison, kind: Kind) -> str:
    error = found.error(kind)
    return text.plain(found.error_text) if found.error_text else "" if error is None else f"{error:+z.1%}"
