"""What a person does with one kept run: name and note, copy, archive, delete; and how a deleted one comes back."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from trainer.runs.contract import Run
from ui.parts import notices, text
from ui.runs import address
from ui.runs.facts import run_data, shelf, titles

_ASKED, _DELETED = "run to name", "runs just deleted"
_NAME, _AGAIN, _COPY, _ARCHIVE, _BACK, _DELETE = "name", "again", "copy", "archive", "back", "delete"


def menu(run: Run, *, again: bool = False) -> None:
    """Show the menu of a run.

    Args:
        run: The run.
        again: Whether to offer a change of its plan too.
    """
    labels = {
        _AGAIN: "Change and run again",
        _NAME: "Name and note",
        _COPY: "Duplicate: run it once more",
        _ARCHIVE: "Archive",
        _BACK: "Take out of the archive",
        _DELETE: f"Delete ({text.size(shelf.size_bytes(run))})",
    }
    offered = [_NAME, *([] if run.parts else [_COPY]), _BACK if run.archived_at is not None else _ARCHIVE, _DELETE]
    key = f"menu {run.id}"
    st.menu_button(
        "More",
        [_AGAIN, *offered] if again else offered,
        key=key,
        type="tertiary",
        format_func=labels.__getitem__,
        on_click=_do,
        args=(run, key),
    )


def wants_change(run: Run) -> bool:
    """Return whether the menu of a run was asked for a change of its plan."""
    return bool(st.session_state.get(f"menu {run.id}") == _AGAIN)


def ask(run: Run) -> None:
    """Let a run be named in its place the next time it is drawn."""
    st.session_state[_ASKED] = run.id


def is_asked(run: Run) -> bool:
    """Return whether a run is being named."""
    return bool(st.session_state.get(_ASKED) == run.id)


def form(run: Run) -> None:
    """Ask for the name and the note of a run."""
    with st.form(f"naming {run.id}", border=False):
        st.text_input("Name", run.name, key="new name", max_chars=shelf.LONGEST_NAME, placeholder=titles.title(run))
        st.text_area("Note", run.note, key="new note", max_chars=shelf.LONGEST_NOTE, height=80)
        with st.container(horizontal=True):
            st.form_submit_button("Save", key="save name", on_click=_save, args=(run.id,))
            st.form_submit_button("Cancel", key="keep name", on_click=_leave)


def deleted_notice() -> None:
    """Say what was just deleted, with its size, and offer to take it back."""
    for run_id, title, taken in st.session_state.get(_DELETED, []):
        words, button = st.columns([5, 1], vertical_alignment="center")
        left = f"It can be taken back for {shelf.TRASH_DAYS} days."
        words.success(f"Deleted {text.plain(title)} ({text.size(taken)}). {left}", icon=":material/delete:")
        button.button("Undo", key=f"undo {run_id}", width="stretch", on_click=_take_back, args=(run_id,))


def trash() -> None:
    """List the deleted runs, which can still be taken back."""
    deleted = run_data.store().deleted()
    if not deleted:
        return
    with st.expander(f"Trash ({len(deleted):,})", icon=":material/delete:", key="trash", on_change="rerun") as box:
        for run in deleted if box.open else ():
            words, button = st.columns([5, 1], vertical_alignment="center")
            days = max(0, shelf.TRASH_DAYS - (time.time() - (run.deleted_at or 0)) / 86_400)
            words.markdown(
                f"{text.plain(titles.title(run))}, {text.plain(titles.date(run.created_at))}  \n"
                f":gray[removed for good in {text.duration(86_400 * days)}]"
            )
            button.button("Take back", key=f"back {run.id}", width="stretch", on_click=_take_back, args=(run.id,))


@notices.guarded
def delete(runs: Sequence[Run]) -> None:
    """Put runs into the trash, and go back to the list."""
    gone: list[tuple[str, str, int]] = []
    st.session_state[_DELETED] = gone
    for run in runs:
        taken = shelf.delete(run)
        gone.append((run.id, titles.title(run), taken))
    address.show([])


def _do(run: Run, key: str) -> None:
    store = run_data.store()
    deeds: dict[str, Callable[[], object]] = {
        _NAME: partial(ask, run),
        _COPY: partial(_copy, run),
        _ARCHIVE: partial(store.archive, run.id),
        _BACK: partial(store.archive, run.id, archived=False),
        _DELETE: partial(delete, [run]),
    }
    if deed := deeds.get(st.session_state[key]):
        notices.guarded(deed)()


def _copy(run: Run) -> None:
    address.show([run_data.starter().duplicate(run).id])


@notices.guarded
def _save(run_id: str) -> None:
    name, note = st.session_state["new name"], st.session_state["new note"]
    run_data.store().describe(run_id, name=name, note=note)
    _leave()


def _leave() -> None:
    st.session_state.pop(_ASKED, None)


@notices.guarded
def _take_back(run_id: str) -> None:
    run_data.store().take_back(run_id)
    st.session_state[_DELETED] = [one for one in st.session_state.get(_DELETED, []) if one[0] != run_id]
