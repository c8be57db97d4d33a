"""What all command lines of LoRAFit share: how they read a setting and how they exit."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from specs.errors import PlanError

_BROKEN_PIPE_STATUS = 128 + 13
"""The exit status a shell reports for a program that wrote to a closed pipe (SIGPIPE)."""


def run_and_exit(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command line and exit with its status; exit quietly if nobody reads the output any more.

    Python ignores SIGPIPE, and so does this: the default action would also end the process when a connection drops.
    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        status = _status(main)
        sys.stdout.flush()
    except BrokenPipeError:
        # Discard what is still buffered, so that the interpreter's final flush does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _BROKEN_PIPE_STATUS
    sys.exit(status)


def _status(main: Callable[[list[str]], int]) -> int | str | None:
    """Return the exit status of a command line, even if argparse exited by itself, as after ``--help``."""
    try:
        return main(sys.argv[1:])
    except SystemExit as ended:
        return ended.code


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
        return name, json.loads(value)
    except ValueError:
        return name, value.split(",") if name == "target_modules" and value != "all-linear" else value
