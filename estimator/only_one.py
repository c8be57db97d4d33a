"""One worker for one thing: whoever comes second waits for what the first makes instead of making it too."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_SECONDS = 0.2


@contextmanager
def only_one(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Wait until nobody else holds the lock of a file; the operating system frees it when its owner dies.

    Waits as long as the owner lives. Where the folder cannot be written to or cannot lock, nobody waits.

    Args:
        file: What stands for the thing that is made.
        waiting: Called once if somebody else makes it.
    """
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file, poll_interval=_POLL_SECONDS)
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                waiting()
                held.enter_context(lock.acquire())
        except (OSError, NotImplementedError):
            pass
        yield
