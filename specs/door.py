"""What every command line of LoRAFit does alike: how it reads a setting, and how it ends."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from specs.errors import PlanError

_NOBODY_READS = 128 + 13
"""What a shell reports for a program that wrote to a closed pipe (SIGPIPE)."""


def leave(main: Callable[[list[str]], int]) -> NoReturn:
    """Carry out a command line and end the process with its status; quietly if nobody reads the output any more.

    Ignoring SIGPIPE, as Python does, is left as it is: its default would also end the process at a lost connection.
    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        status = _status(main)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered goes nowhere, so that the interpreter's own flush at the end finds nothing wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _NOBODY_READS
    sys.exit(status)


def _status(main: Callable[[list[str]], int]) -> int | str | None:
    """Return what a command line ended with, also where argparse ended it, as after ``--help``."""
    try:
        return main(sys.argv[1:])
    except SystemExit as ended:
        return ended.code


def setting(option: str, text: str) -> tuple[str, Any]:
    """Return field and value of a text such as ``r=8``: the value as JSON, else as it stands, several names as a list.

    Raises:
        PlanError: If the text is no such pair.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise PlanError(option, "is written field=value", text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value.split(",") if name == "target_modules" and value != "all-linear" else value
