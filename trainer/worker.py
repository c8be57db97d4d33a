"""The process of one run: ``python -m trainer.worker RUNS_FOLDER RUN_ID ATTEMPT``, started by ``trainer.launcher``."""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer import launcher
from trainer.contract import HEARTBEAT_SECONDS, Phase, Run, State
from trainer.failure import StopRequestedError, kind_and_sentence
from trainer.session import Session
from trainer.store import Store

_LOOK_SECONDS = 0.5
"""How often a stop request is looked for."""


class _Attempt:
    """One worker's work on a run: beats while it lives, and leaves the run in a state that says how it ended."""

    def __init__(self, store: Store, run: Run) -> None:
        self.stop = threading.Event()
        self._over = threading.Event()
        self._store, self._run = store, run
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def finish(self, state: State) -> None:
        """Note that the run ended as it should."""
        self._store.beat(self._run.id, self._run.attempt)  # takes it back if it was taken for lost just now
        self._store.enter(self._run.id, state, phase=Phase.DONE, finished_at=time.time())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Put a failure into the store and its traceback into the log."""
        if isinstance(error, StopRequestedError):
            self.finish(State.STOPPED)
        elif error is not None:
            traceback.print_exception(kind, error, trace)
            error_kind, sentence = kind_and_sentence(error)
            fields = {"phase": Phase.DONE, "error": sentence, "error_kind": error_kind, "finished_at": time.time()}
            self._store.enter(self._run.id, State.FAILED, **fields)
            self._store.add_event(self._run.id, "error", sentence)
        self._over.set()
        self._thread.join()
        return True

    def _beat(self) -> None:
        beaten = 0.0
        while not self._over.wait(_LOOK_SECONDS):
            if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                beaten = time.monotonic()
                if not self._store.beat(self._run.id, self._run.attempt):
                    # Another worker has taken the run over: two must not write to one run.
                    os._exit(3)
            if self._store.stop_requested(self._run.id):
                self.stop.set()


def main(arguments: list[str]) -> int:
    """Work on one run, then start the next one of the device; return the exit status."""
    folder, run_id, attempt = arguments
    store = Store(Path(folder))
    run = store.run(run_id)
    if run.attempt != int(attempt):
        return 3
    with _Attempt(store, run) as ours:
        # The end of a session or of the machine asks first: save, and leave.
        signal.signal(signal.SIGTERM, lambda *_: ours.stop.set())
        # Importing the training stack takes seconds, in which the run must already be known to live.
        training = importlib.import_module("trainer.train")
        ours.finish(training.train(Session(run, store, ours.stop)))
    launcher.start_next(store, run.place.device)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
