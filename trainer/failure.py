"""What an exception in a worker means to the user: a kind and one sentence."""

import errno

from specs import DataError, LorafitError, PlanError, RunError, SpecError
from specs.errors import clipped

# What torch 2.13 and the operating system say when memory runs out, in lower case.
_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


# What gloo and NCCL say in torch 2.13 when the process at the other end is gone, in lower case.
_GONE_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "nccl error",
    "connection refused",
)

GONE = "process_gone"
"""The ``error_kind`` of a process that lost contact with another process of the same run."""


class StopRequestedError(Exception):
    """Somebody asked the run to stop before it began to train."""


class AttemptOverError(Exception):
    """A worker's write was refused: its run is over, or another worker has it."""


class PassedOnError(LorafitError):
    """The error of another process, passed on in its own sentence."""

    def __init__(self, sentence: str) -> None:
        """Take the sentence, on one line that is no longer than others and names no secret."""
        Exception.__init__(self, clipped(sentence))


class NotFiniteError(RunError):
    """The loss of a step is infinite or not a number."""


class DiskFullError(RunError):
    """The disk of the runs folder has too little space for what is to be written."""


_KINDS: tuple[tuple[type[LorafitError], str], ...] = (
    (NotFiniteError, "not_finite"),
    (DiskFullError, "disk_full"),
    (DataError, "data"),
    (PlanError, "plan"),
    (SpecError, "model"),
)


def kind_and_sentence(error: BaseException) -> tuple[str, str]:
    """Return the ``error_kind`` of an exception and the sentence that a run shows for it."""
    kind = error_kind(error)
    if isinstance(error, LorafitError):
        return kind, str(error)
    return kind, str(RunError(*_wording(kind, error)))


def error_kind(error: BaseException) -> str:
    """Return which known kind of failure an exception is."""
    if isinstance(error, LorafitError):
        return next((kind for known, kind in _KINDS if isinstance(error, known)), "run")
    if _is_memory(error):
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _GONE_SIGNS):
        return GONE
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return "disk_full" if full or "no space left" in str(error).lower() else "unexpected"


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _MEMORY_SIGNS)


def _wording(kind: str, error: BaseException) -> tuple[str, str, str | None, str]:
    """Return the subject, the rule, what was found and the way out."""
    if kind == "out_of_memory":
        way_out = "Lower max_length, lower per_device_train_batch_size or turn on gradient_checkpointing, then retry"
        return "memory", "the run needs more than the device has", None, way_out
    if kind == "disk_full":
        return (
            "disk",
            "no space is left where the runs or the models are stored",
            None,
            "Free some space and resume the run",
        )
    if kind == GONE:
        return "run", "one of its processes was killed or crashed", None, "Resume the run from its last checkpoint"
    first_line = (str(error).splitlines() or [""])[0]
    return "run", f"ended with {type(error).__name__}", first_line, "The full message is in the run's log"
