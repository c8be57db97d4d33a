"""A process of one run: ``python -m trainer.worker RUNS_FOLDER RUN_ID ATTEMPT``, started by ``trainer.runs.launcher``.

A run on several devices has one for each, started by torchrun. The one with rank 0 leads: only it writes to the store.
"""

import importlib
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from specs.doors import faults
from specs.errors import ended
from trainer.failure import AttemptOverError, StopRequestedError, kind_and_sentence
from trainer.runs import crash_notes, deaths, launcher, processes
from trainer.runs.contract import HEARTBEAT_SECONDS, RENEWAL_SECONDS, State
from trainer.runs.output import guard_output
from trainer.runs.session import Session
from trainer.runs.store import Store

_POLL_SECONDS = 0.5
"""How often to check for a stop request."""
_TAKEN_OVER = 3
"""Exit status of a process whose run was taken over by another worker, or is over."""
_UNRENEWED = 4
"""Exit status of a process that could not say for too long that it lives."""


class _Attempt:
    """The leading process's work on a run: sends heartbeats, and leaves the run in a state that says how it ended."""

    def __init__(self, session: Session) -> None:
        self.status = 0
        """The exit status that the process deserves."""
        self._session, self._store, self._run = session, session.store, session.run
        self._beaten = 0.0
        self._renewed = time.monotonic()
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def finish(self, state: State) -> None:
        """Record that the run ended as it should."""
        with self._ending:
            self._session.end(state)
            self._over.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Put a failure into the store and its traceback into the log."""
        try:
            self._end(error)
        except AttemptOverError:
            self.status = _TAKEN_OVER
        self._over.set()
        self._thread.join()
        return True

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, StopRequestedError):
            self.finish(State.STOPPED)
        elif isinstance(error, AttemptOverError):
            self.status = _TAKEN_OVER
        elif error is not None:
            self.status = 1
            sys.stderr.write(faults.traceback_text(error))
            # If one process fails, the others only see that it is gone.
            note = crash_notes.awaited(self._session.folder) if self._run.plan.num_gpus > 1 else None
            self._fail(*(note or kind_and_sentence(error)))

    def _fail(self, error_kind: str, sentence: str) -> None:
        with self._ending:
            if self._over.is_set():
                return
            self._session.end(State.FAILED, error=sentence, error_kind=error_kind)
            self._over.set()

    def _beat(self) -> None:
        """Send heartbeats, whatever becomes of the store; end the process when it can no longer say that it lives."""
        while not self._over.wait(_POLL_SECONDS):
            try:
                self._renew()
                self._look()
            except (sqlite3.Error, OSError) as error:
                if time.monotonic() - self._renewed > RENEWAL_SECONDS:
                    sys.stderr.write(
                        f"The worker ends: for too long it could not say that it lives: {ended(str(error))}\n"
                    )
                    os._exit(_UNRENEWED)

    def _renew(self) -> None:
        """Send a heartbeat if it is time; exit at once if the run is another's, as two must not write to one."""
        if time.monotonic() - self._beaten < HEARTBEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        with self._ending:  # a run that this worker has just ended takes no heartbeat either
            if not self._over.is_set() and not self._store.beat(self._run.id, self._run.attempt):
                os._exit(_TAKEN_OVER)
        self._renewed = time.monotonic()

    def _look(self) -> None:
        """Check whether somebody asked the run to stop, or whether another of its processes failed."""
        if self._store.stop_requested(self._run.id):
            self._session.stop.set()
        if self._store.hurry_requested(self._run.id):
            self._session.hurry.set()
        note = crash_notes.read(self._session.folder)
        if note is not None:
            # The training may wait for the dead process until its timeout, without reacting to anything else.
            with suppress(AttemptOverError):
                self._fail(*note)
            os._exit(1)


class _FollowerAttempt:
    """The work of a process that does not lead: leaves a note if it fails, and ends with the run."""

    def __init__(self, session: Session) -> None:
        self.failed = False
        self._session = session
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave the reason for a failure where the leading process finds it."""
        if error is not None and not isinstance(error, StopRequestedError):
            sys.stderr.write(faults.traceback_text(error))
            crash_notes.leave(self._session.folder, self._session.rank, *kind_and_sentence(error))
            self.failed = True
        self._over.set()
        self._thread.join()
        return True

    def _watch(self) -> None:
        """Exit at once when the run failed or belongs to another worker: no leader will come back to this process."""
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(sqlite3.Error, OSError):  # the leader ends the run if that lasts
                run = self._session.store.run(self._session.run.id)
                if run.attempt != self._session.run.attempt or run.state in {State.FAILED, State.LOST}:
                    os._exit(_TAKEN_OVER)


def main(arguments: list[str]) -> int:
    """Work on one run, then start the next one on its devices; return the exit status."""
    folder, run_id, attempt = arguments
    store = Store(Path(folder))
    run = store.run(run_id)
    if run.attempt != int(attempt):
        return _TAKEN_OVER
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    session = Session(run, store, threading.Event(), rank=rank, local_rank=local_rank)
    signal.signal(signal.SIGTERM, lambda *_: _leave(session))
    if not session.leads:
        with _FollowerAttempt(session) as following:
            _train(session)
        return int(following.failed)
    with _Attempt(session) as ours:
        if run.plan.num_gpus > 1:
            # The launcher knows torchrun, which can be killed without its processes.
            store.started(run_id, run.attempt, processes.identity(os.getpid()), deaths.oom_kills())
        ours.finish(_train(session))
    launcher.start_waiting(store)
    return ours.status


def _leave(session: Session) -> None:
    """Save, and exit without the answers: the session or the machine is ending."""
    session.hurry.set()
    session.stop.set()


def _train(session: Session) -> State:
    # Importing the training stack takes seconds, during which heartbeats must already be sent.
    state: State = importlib.import_module("trainer.worker.train").train(session)
    return state


if __name__ == "__main__":
    guard_output()
    sys.exit(main(sys.argv[1:]))
