"""Answers to one question beside each other, or below each other on a narrow screen."""

from collections.abc import Sequence

import streamlit as st

from ui.parts import text


def sides(question: str, answers: Sequence[tuple[str, str]]) -> None:
    """Show what several say to one question.

    Args:
        question: As it was asked.
        answers: Who says it, and what, in Markdown.
    """
    st.markdown("  \n".join(f"**{text.plain(line.strip())}**" for line in question.splitlines() if line.strip()))
    for column, (label, said) in zip(st.columns(len(answers)), answers, strict=True):
        with column.container(border=True, height="stretch"):
            st.caption(label)
            st.markdown(said)
