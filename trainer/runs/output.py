"""What the processes of a run print: without secrets, and dropped where the log cannot grow."""

import atexit
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

from specs.secrecy import without_secrets

_LONGEST_LINE = 65_536
"""Characters after which a line without an end is written: no secret is as long."""


class Output:
    """A stream that writes whole lines, in which secrets are hidden; no run ends because the disk of its log is full.

    Whatever a library prints, warns of or logs through Python comes here, so that no place needs to think of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write the lines that are complete, and keep the rest: a secret may come in two pieces."""
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            self._put(whole + end)
            if len(self._begun) > _LONGEST_LINE:
                self.finish()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several pieces."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what is written; a line that has not ended yet waits."""
        with suppress(OSError):
            self._stream.flush()

    def finish(self) -> None:
        """Write what has not ended with a line."""
        with self._lock:
            rest, self._begun = self._begun, ""
            self._put(rest)

    def _put(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(without_secrets(text) if text else "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """Let everything that this process prints from now on pass through an ``Output``, to the end of the process."""
    for name in ("stdout", "stderr"):
        guarded = Output(getattr(sys, name))
        setattr(sys, name, guarded)
        atexit.register(guarded.finish)
