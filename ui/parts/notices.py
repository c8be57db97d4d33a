"""What the page says when something is wrong, or takes its time."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import streamlit as st

from specs import LorafitError
from ui.parts import text

_NOTICE = "notice"
_A_MOMENT_SECONDS = 0.5


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
def waiting() -> Iterator[None]:
    """Say what is being waited for, from the moment on when something that takes long tells of itself."""
    with ExitStack() as spinner:

        def show(words: str) -> None:
            spinner.close()
            spinner.enter_context(st.spinner(f"{words[:1].upper()}{words[1:]} ...", show_time=True))

        listening = _LISTENER.set(show)
        try:
            yield
        finally:
            _LISTENER.reset(listening)


@contextmanager
def progress(words: str) -> Iterator[Callable[[float], None]]:
    """Yield what takes the share that is done; a bar appears once it lasts, so that quick work moves nothing."""
    began, place = time.monotonic(), st.empty()

    def show(share: float) -> None:
        if time.monotonic() - began > _A_MOMENT_SECONDS:
            place.progress(min(1.0, share), f"{words} {share:.0%}")

    yield show
    place.empty()


def tell(words: str) -> None:
    """Tell the person who waits what is being done; outside of ``waiting`` nobody listens."""
    _LISTENER.get()(words)


def _nobody(_: str) -> None:
    return None


_LISTENER: ContextVar[Callable[[str], None]] = ContextVar("listener", default=_nobody)
