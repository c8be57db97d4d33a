"""What lessons share: tables of text, and the list of sources."""

from collections.abc import Sequence

import streamlit as st

from ui.parts import exhibits


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], alt: str) -> None:
    """Show rows of Markdown under their headings."""
    cells = {column: [row[index] for row in rows] for index, column in enumerate(columns)}
    exhibits.table(cells, name=alt.lower().replace(" ", "_"), alt=alt)


def sources(words: str) -> None:
    """Show the sources of a lesson's claims."""
    st.markdown(f":small[Sources: {words}]")
