"""Ctrl-C while a command line is still being imported: one word instead of the traceback of an import."""

import sys
from types import TracebackType

DOORS = frozenset({"advisor", "catalog", "estimator", "trainer"})


def end_quietly() -> None:
    """Let Ctrl-C end this process without a traceback if it was started as ``python -m`` one of the doors."""
    started = sys.orig_argv
    if "-m" in started[:-1] and started[started.index("-m") + 1] in DOORS:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
    else:
        sys.__excepthook__(kind, error, trace)
