"""The training data on the page: what is in it, what is wrong with it, and what the model reads."""

import plotly.graph_objects as go
import streamlit as st

from trainer.data.doctor import Report
from ui.parts import charts, text
from ui.parts.palette import ACCENT, CAPACITY_LINE
from ui.plan.datasets import Data


def examination(data: Data, max_length: int) -> None:
    """Show what the data doctor found."""
    report = data.report
    cells = st.grid(min_column_width=130)
    cells.metric("Examples", f"{report.rows:,}", border=True, help=f"Layout: {report.layout}.")
    cells.metric("Skipped", f"{report.skipped:,}", border=True, help="Rows that the run cannot train on.")
    cells.metric(
        "Duplicates", f"{report.duplicates:,}", border=True, help="Rows that repeat an earlier one word for word."
    )
    cells.metric(
        "Truncated",
        f"{report.share_truncated(max_length):.0%}",
        border=True,
        help=f"Share of rows longer than max_length ({max_length:,} tokens).",
    )
    for finding in report.findings[:10]:
        st.warning(text.plain(finding.sentence), icon=":material/warning:")
    if report.lengths:
        st.plotly_chart(
            lengths_chart(report, max_length),
            key="lengths",
            config=charts.STATIC,
            alt=f"Lengths of the examples, median {report.quantile(0.5):,} tokens, longest {report.lengths[-1]:,}",
        )
        st.caption("Counted with the demo model's tokenizer; other models differ by about 10 %.")
    st.markdown("**What the model sees.** It learns to write everything but the grey text, which is only context.")
    for example in report.previews[:3]:
        with st.container(border=True):
            st.markdown("".join(_piece(words, learned=learned) for words, learned in example.pieces))


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


def _piece(words: str, *, learned: bool) -> str:
    """Return one piece as Markdown, greyed where it is not learned."""
    shown = [text.plain(line) for line in words.split("\n")]
    if not learned:
        shown = [f":gray[{line}]" if line.strip() else "" for line in shown]
    return "  \n".join(shown)
