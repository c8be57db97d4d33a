"""One tracer for one recipe: whoever comes second waits for the tape instead of tracing it again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_SECONDS = 0.2


@contextmanager
def only_tracer(file: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else traces what a file stands for; the operating system frees it when its owner dies.

    Waits as long as the owner lives. Where the folder cannot be written to or cannot lock, nobody waits.
    """
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file, poll_interval=_POLL_SECONDS)
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                progress("waiting for another estimate that traces this model")
                held.enter_context(lock.acquire())
        except (OSError, NotImplementedError):
            pass
        yield
