"""Reads the small files that a person names, such as plans, and refuses what is no such file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from specs.doors.faults import RULES
from specs.errors import LorafitError

Refusal = Callable[[str, str, object, str], LorafitError]


def small_text(path: Path, what: str, *, most_bytes: int, refusal: Refusal) -> str:
    """Return the text of a file of a limited size, in UTF-8; a pipe or a device is refused instead of waited for.

    Args:
        path: The file.
        what: What it should be, such as ``a plan``.
        most_bytes: The largest size of such a file.
        refusal: The kind of error to raise.

    Raises:
        LorafitError: Of the kind of ``refusal``, if the file cannot be read, is no regular file, too large or no text.
    """
    way_out = f"Give the path of {what} file"
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise refusal(str(path), "is not a regular file", None, way_out)
            raw = file.read(most_bytes + 1)
    except OSError as error:
        rule, _ = RULES.get(error.errno or 0, ("cannot be read", ""))
        raise refusal(str(path), f"cannot be read: it {rule}", None, way_out) from error
    if len(raw) > most_bytes:
        raise refusal(str(path), f"is longer than {what} file can be, {most_bytes:,} bytes", None, way_out)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(str(path), "cannot be read: it is not text in UTF-8", None, way_out) from error
