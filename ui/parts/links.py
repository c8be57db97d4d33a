"""Links into the app: to the plan page with one thing changed, and from addresses that have since changed."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from ui.parts import given

AGAIN = "again"
"""The parameter of the Plan page that names a run whose plan is to be changed and run again."""

Parameters = Mapping[str, str | Sequence[str]]


def to_plan(words: str, parameters: Parameters, **changes: str) -> str:
    """Return a Markdown link to the plan page with these parameters and some changes; ``words`` is Markdown too."""
    return f"[{words}](/?{urlencode({**parameters, **changes}, doseq=True)})"


def accept_old(key: str, renamed: Mapping[str, str]) -> None:
    """Let an address with a tab's former name open the tab; call this before the widget with that key."""
    if (name := renamed.get(st.query_params.get(key, ""))) is not None:
        given.granted(key)
        st.session_state.setdefault(key, name)
