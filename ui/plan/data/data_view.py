"""The training data on the page: what is in it, what is not read, and what the model learns of it."""

import bisect
import functools
import importlib
from collections.abc import Mapping

import plotly.graph_objects as go
import streamlit as st

from advisor.situation import TASKS_OF_DATA
from catalog import tokenizers
from specs import MIB, TASK_TYPES, FinetunePlan
from specs.tasks import kind_for
from trainer.data.doctor import Preview, Report
from trainer.data.readers import Reader
from trainer.data.source import WITHOUT_ANSWERS
from ui.drawing.palette import ACCENT, CAPACITY_LINE
from ui.parts import exhibits, notices, text
from ui.parts.examining import FIRST_ROWS, Examination
from ui.plan.data import preview
from ui.plan.data.datasets import Data

_LABELS = {"unpaired": "Marks", "tags": "Tags"}
"""What the labels of data are called, where they are not classes."""
_SHOWN_ROWS = 3
_SHOWN_LINES = 20
"""Most lines of a table about the data."""


def examination(data: Data, plan: FinetunePlan, model: str, vocab_size: int) -> None:
    """Show what the data holds.

    Args:
        data: The data.
        plan: What it would be trained with.
        model: The model's name, whose tokenizer may be fetched.
        vocab_size: Words of its vocabulary, which tell about the size of that.
    """
    report = data.report
    st.markdown(_recognised(report, plan.task_type))
    _figures(report, plan.max_length)
    _counts("Not read", report.unused, "column or key of a message", "The model never sees what stands there.")
    _counts("Skipped rows", report.reasons, "reason", _numbers(report))
    _counts(
        _LABELS.get(report.task, "Classes"), report.labels, "label", "", of="Words" if report.task == "tags" else "Rows"
    )
    if report.imbalance:
        st.caption(f":material/balance: {text.plain(report.imbalance)}")
    in_parts = TASK_TYPES[plan.task_type].reads_in_parts
    apart = plan.task_type == "FEATURE_EXTRACTION"  # each text of a row is truncated by itself
    if report.lengths:
        bins = report.histogram()
        exhibits.chart(
            lengths_chart(report, plan.max_length),
            {name: [one[at] for one in bins] for at, name in enumerate(("tokens_from", "tokens_below", "examples"))},
            name="lengths",
            alt=f"Lengths of the examples, median {report.quantile(0.5):,} tokens, longest {report.longest:,}",
        )
        st.caption(truncated(report, plan.max_length, in_parts=in_parts))
    writes = report.task not in WITHOUT_ANSWERS
    _read_by(data.reader, model, vocab_size, plain=not TASK_TYPES[plan.task_type].writes)
    if writes:
        st.html(preview.legend())
    for shown in report.previews[:_SHOWN_ROWS]:
        row(
            shown,
            data.reader,
            max_length=None if in_parts or apart else plan.max_length,
            whole=not plan.completion_only_loss,
        )


def row(shown: Preview, reader: Reader, *, max_length: int | None, whole: bool) -> None:
    """Show one row as the model reads it, with both answers of a pair."""
    with st.container(border=True):
        marked = preview.mark(shown)
        st.markdown(f"**Row {shown.row:,}**" + (f" · {text.plain(marked)}" if marked else ""))
        for side in preview.sides(shown, reader, max_length=max_length, whole=whole):
            told = " · ".join(filter(None, (side.title, side.facts)))
            if told:
                st.caption(text.plain(told))
            st.html(preview.html(side))


@functools.partial(notices.fragment, run_every=1.0)
def reading(running: Examination) -> None:
    """Say how far a long file is read; once it is, draw the page with what was found."""
    if running.is_over:
        st.rerun()
    far = f"{running.rows_read:,} rows" if running.rows_read else "no row"
    st.caption(
        f":material/hourglass_top: Everything here is for the first {FIRST_ROWS:,} rows of the data. "
        f"The rest is being read, {far} so far."
    )


def truncated(report: Report, max_length: int, *, in_parts: bool = False) -> str:
    """Return in a sentence how many rows are truncated, and by how much; or how many are read in parts."""
    longer = report.lengths[bisect.bisect_right(report.lengths, max_length) :]
    if report.longest <= max_length:
        return f"No row is longer than max_length ({max_length:,} tokens); the longest has {report.longest:,}."
    most = report.longest - max_length
    if not longer:
        return f"Only a few rows are longer than max_length ({max_length:,} tokens), by {most:,} tokens at most."
    if in_parts:
        return f"{len(longer) / len(report.lengths):.1%} of the rows are read in overlapping parts of max_length."
    share, median = len(longer) / len(report.lengths), longer[len(longer) // 2] - max_length
    number = max(1, round(share * report.rows))
    about = "" if len(report.lengths) == report.rows else "About "
    rows = "1 row is" if number == 1 else f"{number:,} rows are"
    return f"{about}{rows} truncated ({share:.1%}), by {median:,} tokens at the median and {most:,} at most."


def lengths_chart(report: Report, max_length: int) -> go.Figure:
    """Return a histogram of lengths with a line at ``max_length``."""
    bins = report.histogram()
    figure = go.Figure(
        go.Bar(
            x=[(low + high) / 2 for low, high, _ in bins],
            y=[count for _, _, count in bins],
            width=[high - low for low, high, _ in bins],
            marker={"color": ACCENT},
            customdata=[f"{low:,} to {high - 1:,} tokens" for low, high, _ in bins],
            hovertemplate="%{customdata}: %{y:,}<extra></extra>",
        )
    )
    if max_length <= 1.5 * report.lengths[-1]:
        figure.add_vline(
            x=max_length,
            line={"color": CAPACITY_LINE, "dash": "dash"},
            annotation={"text": f"max_length {max_length:,}", "yref": "paper", "y": 1, "yanchor": "bottom"},
        )
    figure.update_layout(
        height=220,
        margin={"l": 0, "r": 0, "t": 24, "b": 0},
        bargap=0.05,
        xaxis={"title": "tokens per example", "fixedrange": True, "rangemode": "tozero"},
        yaxis={"title": "examples", "fixedrange": True},
    )
    return figure


def _recognised(report: Report, task_type: str) -> str:
    holds = TASKS_OF_DATA[kind_for(report.kinds, task_type)][1]
    part = "" if report.whole else f" Shown is what the first {FIRST_ROWS:,} rows hold."
    return f"Recognised as **{text.plain(report.layout)}**: {holds}.{part}"


def _figures(report: Report, max_length: int) -> None:
    cells = st.grid(min_column_width=130)
    cells.metric("Examples", f"{report.rows:,}", border=True)
    cells.metric("Skipped", f"{report.skipped:,}", border=True)
    cells.metric("Duplicates", f"{report.duplicates:,}", border=True)
    cells.metric("Truncated", _share(report.share_truncated(max_length)), border=True)
    st.caption(
        "Skipped: rows that the run cannot train on. Duplicates: rows that repeat an earlier one word for word. "
        f"Truncated: the share of rows longer than max_length ({max_length:,} tokens)."
    )


def _share(part: float) -> str:
    """Return a share in percent, as the sentence below the chart says it; none at all as 0%."""
    return f"{part:.1%}" if part else "0%"


def _counts(title: str, counts: Mapping[str, int], what: str, more: str, *, of: str = "Rows") -> None:
    """Show what was counted in how many rows, or of what there are how many, the commonest first."""
    if not counts:
        return
    st.markdown(f"**{title}**")
    shown = list(counts.items())[:_SHOWN_LINES]
    exhibits.table(
        {
            what.capitalize(): [text.plain(name) for name, _ in shown],
            of: [f"{count:,}" for _, count in shown],
        },
        name=title.lower().replace(" ", "_"),
        alt=f"{title}: each {what} with its number of {of.lower()}",
    )
    rest = len(counts) - len(shown)
    told = " ".join(filter(None, (more, f"{rest:,} more are not shown." if rest else "")))
    if told:
        st.caption(text.plain(told))


def _numbers(report: Report) -> str:
    """Return the numbers of the first rows that are skipped."""
    rows = ", ".join(f"{finding.row:,}" for finding in report.findings[:10])
    if report.skipped == 1:
        return f"Row {rows}."
    return f"Rows {rows}{' and others' if report.skipped > len(report.findings[:10]) else ''}."


def _read_by(reader: Reader, model: str, vocab_size: int, *, plain: bool) -> None:
    """Say whose template and tokenizer show the rows, and offer to fetch the model's own; a plain text has none."""
    counted = f" Tokens are counted with {reader.counter}." if reader.counter else " Tokens are not counted."
    template = ": the text as it stands" if plain else f", in {text.plain(reader.template)}"
    st.markdown(f"**What the model reads**{template}.{text.plain(counted)}")
    if reader.is_own or model.count("/") != 1:
        return
    size = max(1, round(tokenizers.BYTES_PER_WORD * vocab_size / MIB))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(f"Fetch its tokenizer (about {size} MB)", icon=":material/download:", on_click=_fetch, args=(model,))
        st.caption(
            "From the Hub. Until then, the chat template and the counts are close to the model's own, but not the same."
        )


@notices.guarded
def _fetch(model: str) -> None:
    """Fetch the tokenizer of a model from the Hub."""
    # huggingface_hub takes a moment to import, which nobody shall wait for who stays offline.
    importlib.import_module("catalog.hub").fetch_tokenizer(model)
