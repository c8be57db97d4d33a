"""What is chosen on one page about a plan, and is found chosen on the next, in its widgets and in its address.

Streamlit forgets the widgets of a page that is left, and its navigation opens the next page without an address.
"""

from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from advisor import Situation
from specs import FinetunePlan
from ui.parts import given, text
from ui.parts.given import PLAN

_STATE, _PAGE, _PLANNED = "carried", "page of what is carried", "plan that was shown last"
_TRAVELS = PLAN | {"price"}
"""What goes with the plan: what changes a run, and what its devices cost."""
_NO_WIDGET = "prompts"
"""What is longer than an address is not in it; its widget is not bound to the address."""


def bring() -> None:
    """Choose what was chosen on the page before; an address that asks for something decides alone.

    Call it before the first widget of a page about a plan.
    """
    moved = st.session_state.get(_PAGE, _page()) != _page()
    st.session_state[_PAGE] = _page()
    if not moved or PLAN & set(st.query_params):
        return
    if (typed := chosen().get(_NO_WIDGET)) is not None:
        st.session_state[_NO_WIDGET] = typed
    given.put(_address())


def keep() -> None:
    """Remember what is chosen; call it after the last widget of a page about a plan."""
    st.session_state[_STATE] = {name: st.session_state[name] for name in _TRAVELS if name in st.session_state}


def chosen() -> dict[str, Any]:
    """Return what was chosen last on a page about a plan, by the names of its widgets."""
    found: dict[str, Any] = st.session_state.get(_STATE, {})
    return found


def remember(situation: Situation, plan: FinetunePlan) -> None:
    """Remember the plan that a page shows, for pages that explain it."""
    st.session_state[_PLANNED] = (situation, plan)


def planned() -> tuple[Situation, FinetunePlan] | None:
    """Return the plan that was shown last and what it is for; None if there was none."""
    found: tuple[Situation, FinetunePlan] | None = st.session_state.get(_PLANNED)
    return found


def _address() -> dict[str, str | list[str]]:
    """Return what was chosen as an address holds it; Streamlit takes out what is a widget's default."""
    written = {name: value for name, value in chosen().items() if name != _NO_WIDGET and value not in (None, "", [])}
    return {
        name: [text.value(entry) for entry in value] if isinstance(value, list | tuple) else text.value(value)
        for name, value in written.items()
    }


def _page() -> str:
    context = get_script_run_ctx()
    return context.page_script_hash if context else ""
