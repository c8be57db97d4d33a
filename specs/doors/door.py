"""What all command lines of LoRAFit share: how they refuse, how they read a setting, and how they end."""

import argparse
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from specs.doors.faults import told
from specs.errors import PlanError, clipped, ended
from specs.fields import NAMES

Main = Callable[[Sequence[str]], int]

REFUSED = 2
"""The exit status of a request that cannot be met."""
INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13
"""The exit statuses a shell reports for a program that Ctrl-C ended, or that wrote to a closed pipe."""


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Exit with the sentence instead of the whole usage."""
        _say(f"{ended(clipped(f'{self.prog}: {message}', 240))} See {self.prog} --help.")
        raise SystemExit(REFUSED)


def door(main: Main) -> Main:
    """Return a command line that answers everything that goes wrong in one sentence and an exit status.

    A reader that closed the pipe is left to ``run_and_exit``: the process's output is then gone.
    """

    @functools.wraps(main)
    def guarded(arguments: Sequence[str]) -> int:
        try:
            return main(arguments)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            _say("Interrupted.")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - nobody should read a traceback; it is kept in a file
            _say(str(told(error)))
            return REFUSED

    return guarded


def run_and_exit(main: Main) -> NoReturn:
    """Run a command line and exit with its status; exit quietly if nobody reads the output any more.

    Python ignores SIGPIPE, and so does this: the default action would also end the process when a connection drops.
    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name, a path or a question may hold what the terminal's encoding, or any encoding, cannot express.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _status(main)
        for stream in _open_streams():
            stream.flush()
    except BrokenPipeError:
        _discard_output()
        status = _BROKEN_PIPE
    except OSError as error:
        _say(str(told(OSError(error.errno, error.strerror, "standard output"))))
        _discard_output()
        status = REFUSED
    sys.exit(status)


def _open_streams() -> list[TextIO]:
    """Return standard output and error, as far as the process was started with them."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _discard_output() -> None:
    """Discard what is still buffered, so that the interpreter's final flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _open_streams():
        os.dup2(nowhere, stream.fileno())


def _say(sentence: str) -> None:
    """Print a sentence on standard error, if anybody can be told."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - what every command line prints


def _status(main: Main) -> int | str | None:
    """Return the exit status of a command line, even if argparse exited by itself, as after ``--help``."""
    try:
        return main(sys.argv[1:])
    except SystemExit as ended:
        return ended.code


def json_value(text: str) -> Any:
    """Return the value of a JSON text from a command line.

    Raises:
        ValueError: If the text is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def setting(option: str, text: str) -> tuple[str, Any]:
    """Return the field and value in a text such as ``r=8``.

    The value is read as JSON if it is valid JSON, otherwise as text; names of modules become a list.

    Raises:
        PlanError: If the text is not of the form ``field=value``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise PlanError(option, "must be written as field=value", text)
    try:
        return name, json_value(value)
    except ValueError:
        return name, value.split(",") if name in NAMES and value != "all-linear" else value
