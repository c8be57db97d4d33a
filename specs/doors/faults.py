"""What an exception that nobody foresaw says to a person: the machine's faults by cause, LoRAFit's own by name."""

import errno
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from specs import paths
from specs.errors import LorafitError
from specs.secrecy import without_secrets


class MachineError(LorafitError):
    """What the machine, its disks or its permissions did not allow."""


class OwnFaultError(LorafitError):
    """A fault of LoRAFit itself; its traceback is kept in a file."""


_ELSEWHERE = "or set LORAFIT_RUNS or LORAFIT_CACHE to another folder"
_FULL = ("is on a full disk, or one that takes no more files", f"Free some space, {_ELSEWHERE}")
_REFUSED = ("may not be read or written by this user", f"Change its permissions, {_ELSEWHERE}")
_OPEN = ("cannot be opened, since too many files are open", "Close other programs and try again")

RULES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        errno.ENOSPC: _FULL,
        errno.EDQUOT: _FULL,
        errno.EFBIG: ("would become larger than this user's files may be", f"Raise the limit, {_ELSEWHERE}"),
        errno.EROFS: ("is on a read-only disk", f"Make it writable, {_ELSEWHERE}"),
        errno.EACCES: _REFUSED,
        errno.EPERM: _REFUSED,
        errno.ENOENT: ("does not exist", "Check the name"),
        errno.ENOTDIR: ("lies in something that is not a folder", "Name another place"),
        errno.EEXIST: ("already exists and is not a folder", "Name another place"),
        errno.EISDIR: ("is a folder", "Name a file"),
        errno.ELOOP: ("is a link that leads back to itself", "Name the file or folder itself"),
        errno.ENAMETOOLONG: ("has a longer name than is possible", "Give a shorter name"),
        errno.EMFILE: _OPEN,
        errno.ENFILE: _OPEN,
        errno.EIO: ("is on a disk that reports an error", "Check the disk"),
    }
)
"""The rule and the way out for each cause that the operating system names."""


_LIMITS: tuple[tuple[type[Exception], str, str, str], ...] = (
    (MemoryError, "memory", "is not enough for this", "Close other programs or give less data"),
    (RecursionError, "input", "is nested too deeply to be read", "Give a flatter one"),
    (OverflowError, "number", "is larger than can be computed with", "Give a smaller one"),
    (EOFError, "input", "ended before an answer was given", "Run it in a terminal"),
)


_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Causes that lie in where something is written to."""
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Causes that lie in a disk or its permissions, not in what was asked for or in the network."""


_NATIVE = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust, such as safetensors, say what the operating system answered."""


def is_of_disk(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that a disk cannot be used."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in DISK:
            return True
        found = found.__cause__ or found.__context__
    return False


def told(error: BaseException) -> LorafitError:
    """Return any exception as an error that a person can read.

    The traceback of a fault of LoRAFit itself is kept in the cache folder, without the secrets of the environment.
    """
    if isinstance(error, LorafitError):
        return error
    if isinstance(error, OSError):
        return _machine_error(error)
    for kind, subject, rule, way_out in _LIMITS:
        if isinstance(error, kind):
            return MachineError(subject, rule, None, way_out)
    native = _NATIVE.search(str(error))
    if native and int(native[1]) in DISK:
        return _machine_error(OSError(int(native[1]), str(error)))
    return _own_fault(error)


def _machine_error(error: OSError) -> MachineError:
    # Where a copy fails for lack of space, the first name is that of what was read.
    named = error.filename2 if error.filename2 and error.errno in _OF_WRITING else error.filename
    subject = os.fsdecode(named) if isinstance(named, str | bytes) else "a file or the output"
    rule, way_out = RULES.get(error.errno or 0, ("cannot be used", "Check the path and the connection"))
    got = None if error.errno in RULES else error.strerror or type(error).__name__
    return MachineError(subject, rule, got, way_out)


def _own_fault(error: BaseException) -> OwnFaultError:
    first_line = (str(error).splitlines() or [""])[0]
    kept = _kept(error)
    way_out = "Please report it" if kept is None else f"Please report it with {kept}"
    return OwnFaultError("LoRAFit", f"has a fault: {type(error).__name__}", first_line or None, way_out)


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an exception, without the secrets of the environment."""
    return without_secrets("".join(traceback.format_exception(error)))


def _kept(error: BaseException) -> Path | None:
    """Write the traceback where only this user reads it, and return the file; None where it cannot be written."""
    try:
        file = paths.cache() / "fault.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", errors="replace") as out:
            out.write(traceback_text(error))
    except (OSError, RuntimeError):
        return None
    return file
