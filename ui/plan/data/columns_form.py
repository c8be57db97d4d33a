"""Which column of an upload has which role: asked where no layout is recognised, and open to whoever knows better."""

from collections.abc import Mapping

import streamlit as st

from specs import LorafitError
from trainer.data.forms.columns import Proposal, is_worse
from trainer.data.forms.layouts import LAYOUTS
from trainer.data.readers import Reader
from ui.parts import text
from ui.parts.notices import guarded
from ui.plan.data import data_view, datasets, preview
from ui.plan.data.datasets import Choice, Columns

_LAYOUTS = {" + ".join(layout.roles): layout for layout in LAYOUTS}
BOX = "own columns"
_OF_A_PAIR = "rejected"
"""The one role that a worse answer may have."""


def ask(choice: Choice, reader: Reader) -> None:
    """Ask for the role of each column of an upload; the answer is kept with the upload."""
    columns = datasets.columns_of(choice.label, choice.split)
    if not columns.names:
        return
    assigned = datasets.column_roles(choice.label)
    if not columns.layout and not assigned:
        with st.container(border=True, key="columns"):
            st.markdown("**Which column is which?** The layout of the file was not recognised.")
            _roles(choice, columns, reader)
        return
    label = "You named the columns" if assigned else "Name the columns yourself"
    box = st.expander(label, icon=":material/view_column:", key=BOX, on_change="rerun")
    with box:
        if assigned:
            st.caption(text.plain(", ".join(f"{role}: {column}" for role, column in assigned.items())))
            st.button("Forget these columns", on_click=_forget, args=(choice.label,))
        else:
            st.caption(text.plain(f"Recognised as {columns.layout}. Name the columns to read the file otherwise."))
        if box.open:
            _roles(choice, columns, reader)


def _roles(choice: Choice, columns: Columns, reader: Reader) -> None:
    label, assigned = choice.label, datasets.column_roles(choice.label)
    suggested = assigned or columns.likely.columns
    if not assigned:
        _reasons(columns.likely)
    guess = next((name for name, layout in _LAYOUTS.items() if set(layout.roles) <= set(suggested)), None)
    name = st.selectbox(
        "Layout",
        list(_LAYOUTS),
        index=list(_LAYOUTS).index(guess) if guess else None,
        key=f"layout {label}",
        placeholder="choose a layout",
    )
    if name is None:
        st.button("Use these columns", disabled=True)
        return
    layout = _LAYOUTS[name]
    chosen = {role: _column(label, role, columns.names, suggested) for role in layout.roles}
    if layout.optional:
        with st.expander("More columns"):
            chosen |= {role: _column(label, role, columns.names, suggested) for role in layout.optional}
    roles = {role: column for role, column in chosen.items() if column is not None}
    complete = set(layout.roles) <= set(roles)
    if complete:
        _first_row(choice, roles, reader)
    st.button("Use these columns", disabled=not complete, on_click=_keep, args=(label, roles))


def _column(label: str, role: str, names: tuple[str, ...], suggested: Mapping[str, str]) -> str | None:
    return st.selectbox(
        role,
        names,
        index=names.index(suggested[role]) if suggested.get(role) in names else None,
        key=f"column {label} {role}",
        placeholder="choose a column",
    )


def _reasons(likely: Proposal) -> None:
    """Say why each column is proposed."""
    lines = [
        f"{role}: **{text.plain(column)}**, {text.plain(likely.reasons[role])}."
        for role, column in likely.columns.items()
    ]
    if likely.caution:
        st.warning(text.plain(likely.caution), icon=":material/warning:")
    if lines:
        st.caption("Proposed:  \n" + "  \n".join(lines))


def _first_row(choice: Choice, roles: Mapping[str, str], reader: Reader) -> None:
    """Show the first row as it would be learned, before anything is accepted."""
    worse = next((column for role, column in roles.items() if role != _OF_A_PAIR and is_worse(column)), None)
    if worse:
        words = f"{worse} looks like a worse answer, and would be learned as a good one."
        st.warning(text.plain(words), icon=":material/warning:")
    try:
        shown = preview.first(datasets.with_column_roles(choice, roles), reader)
    except LorafitError as error:
        st.warning(text.plain(str(error)), icon=":material/warning:")
        return
    st.markdown(f"**Row {shown.row:,} as it would be learned**")
    data_view.row(shown, reader, max_length=None, whole=False)


@guarded
def _keep(label: str, roles: Mapping[str, str]) -> None:
    """Remember which column has which role, and close the question."""
    datasets.set_column_roles(label, roles)
    st.session_state[BOX] = False


@guarded
def _forget(label: str) -> None:
    """Read the file as it is recognised again."""
    datasets.set_column_roles(label, {})
