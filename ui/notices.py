"""What the page says when something is wrong, or takes its time."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from specs import LorafitError
from ui import text


@contextmanager
def errors() -> Iterator[None]:
    """Show what a person can mend as its one sentence."""
    try:
        yield
    except LorafitError as error:
        st.error(text.plain(str(error)), icon=":material/error:")


@contextmanager
def waiting(is_warm: bool) -> Iterator[None]:  # noqa: FBT001 - reads as a sentence where it is used
    """Say what is being waited for while a model is traced for the first time."""
    if is_warm:
        yield
        return
    with st.spinner("Tracing the model's training step, once for each architecture and method (up to 15 s) ..."):
        yield
