"""What takes space on the disk, with a button for each kind that can be removed, and a second one that confirms."""

import streamlit as st

from specs.taken import Taken
from ui.parts import exhibits, notices, text
from ui.runs.facts import space

_ASKED, _FREED, _AGAIN = "kind to remove", "space just freed", "space to draw again"


def space_taken() -> None:
    """Offer the table of what takes space; nothing is measured before somebody opens it."""
    with st.expander("Disk space", icon=":material/hard_drive:", key="space", on_change="rerun") as box:
        if box.open:
            notices.fragment(_table)()


def _table() -> None:
    if st.session_state.pop(_AGAIN, False):
        st.rerun()  # the trash may be gone, and runs show what they take
    kinds = space.found()
    if said := st.session_state.pop(_FREED, None):
        st.success(said, icon=":material/check:")
    taken = sum(one.num_bytes for one in kinds)
    st.markdown(f"**{text.size(taken)}** in all; {text.size(space.free_bytes())} are free.")
    for one in kinds:
        if one.is_removable:
            _row(one)
    exhibits.table(
        {
            "What stays": [f"{text.plain(one.label)} ({one.number:,})" for one in kinds if not one.is_removable],
            "Size": [text.size(one.num_bytes) for one in kinds if not one.is_removable],
            "Why": [text.plain(one.cost) for one in kinds if not one.is_removable],
        },
        name="disk space",
        alt="What takes disk space and is not removed here",
        values=space.columns(kinds),
    )


def _row(one: Taken) -> None:
    """Show one kind with its button; once that was pressed, another one below confirms it."""
    words, button = st.columns([6, 1], vertical_alignment="center")
    words.markdown(
        f"{text.plain(one.label)} ({one.number:,}): **{text.size(one.num_bytes)}**  \n:gray[{text.plain(one.cost)}]"
    )
    button.button("Remove", key=f"remove {one.kind}", width="stretch", on_click=_ask, args=(one.kind,))
    if st.session_state.get(_ASKED) == one.kind:
        with st.container(horizontal=True):
            label = text.on_accent(f"Remove for good ({text.size(one.num_bytes)})")
            st.button(label, key="remove for good", type="primary", on_click=_remove, args=(one.kind,))
            st.button("Keep", key="keep kind", on_click=_ask, args=("",))


def _ask(kind: str) -> None:
    st.session_state[_ASKED] = kind


@notices.guarded
def _remove(kind: str) -> None:
    _ask("")
    freed = space.remove(kind)
    st.session_state[_AGAIN] = True
    left = "".join(f"  \n{text.plain(sentence)}" for sentence in freed.left)
    st.session_state[_FREED] = f"Freed {text.size(freed.num_bytes)}.{left}"
