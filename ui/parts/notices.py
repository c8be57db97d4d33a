"""What a page says when something goes wrong or takes long."""

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
_BAR_DELAY_SECONDS = 0.5


@contextmanager
def errors() -> Iterator[None]:
    """Show an error that the user can fix as one sentence, and the error that a button's callback left behind."""
    if sentence := st.session_state.pop(_NOTICE, None):
        _show(sentence)
    try:
        yield
    except LorafitError as error:
        _show(str(error))


def guarded(act: Callable[..., None]) -> Callable[..., None]:
    """Return a button callback whose error is shown the next time the page is drawn."""

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
    """Show what is being waited for, as soon as slow work reports itself through ``tell``."""
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
    """Yield a function that takes the share done; the bar appears after a moment, so that quick work moves nothing."""
    began, place = time.monotonic(), st.empty()

    def show(share: float) -> None:
        if time.monotonic() - began > _BAR_DELAY_SECONDS:
            place.progress(min(1.0, share), f"{words} {share:.0%}")

    yield show
    place.empty()


def tell(words: str) -> None:
    """Tell the waiting user what is being done; has no effect outside ``waiting``."""
    _LISTENER.get()(words)


def _ignore(_: str) -> None:
    return None


_LISTENER: ContextVar[Callable[[str], None]] = ContextVar("listener", default=_ignore)
