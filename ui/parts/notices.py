"""What a page says when something goes wrong or takes long."""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import streamlit as st

from specs.doors import faults
from ui.parts import text

_LOG = logging.getLogger(__name__)
_NOTICE = "notice"
_BAR_DELAY_SECONDS = 0.5


@contextmanager
def errors() -> Iterator[None]:
    """Show whatever goes wrong as one sentence, and what the callback of a button left behind."""
    if left := st.session_state.pop(_NOTICE, None):
        _show(left)
    try:
        yield
    except Exception as error:  # noqa: BLE001 - nobody should read a traceback; it is kept in a file
        _show(sentence(error))


def guarded(act: Callable[..., object]) -> Callable[..., None]:
    """Return a button callback whose error is shown the next time the page is drawn."""

    @functools.wraps(act)
    def acting(*args: Any) -> None:
        try:
            act(*args)
        except Exception as error:  # noqa: BLE001 - as above
            st.session_state[_NOTICE] = sentence(error)

    return acting


def fragment(draw: Callable[..., None], *, run_every: float | None = None) -> Callable[..., None]:
    """Return a fragment that shows what goes wrong as one sentence, also when it is drawn again without the page."""

    @functools.wraps(draw)
    def drawing(*args: Any, **named: Any) -> None:
        with errors():
            draw(*args, **named)

    return st.fragment(drawing, run_every=run_every)


def sentence(error: Exception) -> str:
    """Return what to show for an error; a fault of LoRAFit itself is logged for whoever runs the server."""
    found = faults.told(error)
    if isinstance(found, faults.OwnFaultError):
        _LOG.error("%s", found)
    return str(found)


def _show(words: str) -> None:
    st.error(text.plain(words), icon=":material/error:")


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
