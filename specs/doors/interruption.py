"""Ctrl-C while a command line is still being imported: one word instead of the traceback of an import.

Importing this module is what makes it so. The doors' packages import it, through ``specs``, before anything that takes
time.
"""

import sys
from types import TracebackType

DOORS = frozenset({"advisor", "catalog", "estimator", "scripts", "trainer"})


def _end_quietly() -> None:
    """Let Ctrl-C end this process without a traceback if it was started as ``python -m`` one of the doors."""
    started = sys.orig_argv
    if "-m" in started[:-1] and started[started.index("-m") + 1].partition(".")[0] in DOORS:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
    else:
        sys.__excepthook__(kind, error, trace)


_end_quietly()
