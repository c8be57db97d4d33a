"""What the page says when something is wrong, or takes its time."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from specs import LorafitError
from ui import text

_NOTICE = "notice"


@contextmanager
def errors() -> Iterator[None]:
    """Show what a person can mend as its one sentence; also what a button before this run could not do."""
    if sentence := st.session_state.pop(_NOTICE, None):
        _show(sentence)
    try:
        yield
    except LorafitError as error:
        _show(str(error))


def guarded(act: Callable[..., None]) -> Callable[..., None]:
    """Return a callback of a button whose refusal is shown when the page is drawn next."""

    @functools.wraps(act)
    def acting(*args: Any) -> None:
        try:
            act(*args)
        except LorafitError as error:
            st.session_state[_NOTICE] = str(error)

    return acting


def _show(sentence: str) -> None:
    st.error(text.plain(sentence), icon=":material/error:")


@contextmanager
def waiting(is_warm: bool) -> Iterator[None]:  # noqa: FBT001 - reads as a sentence where it is used
    """Say what is being waited for while a model is traced for the first time."""
    if is_warm:
        yield
        return
    with st.spinner("Tracing the model's training step, once for each architecture and method (up to 15 s) ..."):
        yield
