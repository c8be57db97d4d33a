"""Shows predictions beside measurements on the page."""

from collections.abc import Sequence

import streamlit as st

from estimator.accuracy.comparison import KINDS, Comparison, summary
from ui.accuracy import predictions
from ui.parts import charts, text

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
        help="Each of these rows needs a trace of its own, which takes a few seconds once.",
    )
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
    cells = st.grid(min_column_width=200)
    for kind in KINDS:
        found = summary(comparisons, kind)
        if found.n:
            cells.metric(
                f"{kind.capitalize()}, mean error of {found.n} runs",
                f"{found.mean_abs_error:.1%}",
                f"{found.worst_under:+.1%} to {found.worst_over:+.1%}",
                delta_color="off",
                delta_arrow="off",
                border=True,
            )
    st.plotly_chart(
        charts.predicted_against_measured(predictions.points(comparisons)),
        key="proof_chart",
        config=charts.CONFIG,
        alt=f"Predicted against measured allocated memory of {len(comparisons)} published runs",
    )
    st.table(
        {
            "Run": [text.plain(predictions.description(found.row)) for found in comparisons],
            "Device": [text.plain(found.row.gpu) for found in comparisons],
            "Measured": [_bytes(found.row.measured.get("allocated")) for found in comparisons],
            "Predicted": [_bytes(found.predicted.get("allocated")) for found in comparisons],
            "Error": [_error(found) for found in comparisons],
            "Source": [_source(found.row.source) for found in comparisons],
        },
        border="horizontal",
        hide_index=True,
        alt="Every published run with its prediction",
    )


def own(points: Sequence[tuple[str, str, int, int]]) -> None:
    """Show the runs on this machine in the same way."""
    if not points:
        st.caption(
            "No run on this machine has been measured yet. Each run records its measured peak beside the predicted one."
        )
        return
    st.plotly_chart(
        charts.predicted_against_measured(points),
        key="own",
        config=charts.CONFIG,
        alt=f"Predicted against measured used memory of {len(points)} runs on this machine",
    )
    st.table(
        {
            "Run": [text.plain(label) for _, label, _, _ in points],
            "Measured": [text.size(measured) for _, _, measured, _ in points],
            "Predicted": [text.size(predicted) for _, _, _, predicted in points],
            "Error": [f"{predicted / measured - 1:+.1%}" for _, _, measured, predicted in points],
        },
        border="horizontal",
        hide_index=True,
        alt="Every run on this machine with its prediction",
    )


def method() -> None:
    """Explain how the estimate is made and what it leaves out."""
    st.markdown(HOW)


def _bytes(size: int | None) -> str:
    return text.size(size) if size else "not measured"


def _error(found: Comparison) -> str:
    error = found.error("allocated")
    return text.plain(found.error_text) if found.error_text else "" if error is None else f"{error:+.1%}"


def _source(words: str) -> str:
    """Return where a row was published, linked if it starts with a GitHub repository."""
    repository = words.split(" ", 1)[0]
    return (
        f"[{text.plain(words)}](https://github.com/{repository})" if repository.count("/") == 1 else text.plain(words)
    )
