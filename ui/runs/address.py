"""The runs named in the address of the page: one run to show, or several to compare."""

from collections.abc import Sequence
from urllib.parse import urlencode

import streamlit as st

RUN = "run"
"""The parameter in the address that names runs."""


def named() -> list[str]:
    """Return the ids in the address."""
    return st.query_params.get_all(RUN)


def show(run_ids: Sequence[str]) -> None:
    """Put runs into the address; without any, the page shows the list."""
    if run_ids:
        st.query_params[RUN] = list(run_ids)
    else:
        st.query_params.clear()


def link(words: str, run_ids: Sequence[str]) -> str:
    """Return a Markdown link that opens runs."""
    return f"[{words}](/runs?{urlencode([(RUN, run_id) for run_id in run_ids])})"


def back() -> None:
    """Show the button back to all runs."""
    st.button("All runs", icon=":material/arrow_back:", type="tertiary", key="back", on_click=show, args=([],))
