"""Follows one run that trains elsewhere, started by ``trainer.runs.launcher`` in place of a worker.

As a worker it is given the runs folder, the run and the attempt, and sends heartbeats. ``--again`` follows what is
there already, after the follower before it was killed.
"""

import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from specs import RunError
from specs.doors import faults
from trainer.away.executors import executor_of
from trainer.away.following import Follower
from trainer.failure import AttemptOverError, kind_and_sentence
from trainer.runs.contract import HEARTBEAT_SECONDS, Phase, State
from trainer.runs.output import guard_output
from trainer.runs.store import Store

_TAKEN_OVER = 3


def main(arguments: list[str]) -> int:
    """Take a run to its place and follow it to its end; return the exit status."""
    folder, run_id, attempt, *again = arguments
    store = Store(Path(folder))
    run = store.run(run_id)
    if run.attempt != int(attempt):
        return _TAKEN_OVER
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))  # what trains elsewhere goes on
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(store, run_id, run.attempt, over), daemon=True)
    beats.start()
    status = 0
    try:
        Follower(store, run, executor_of(run.place.away)).follow(again=bool(again))
    except AttemptOverError:
        status = _TAKEN_OVER
    except Exception as error:  # noqa: BLE001 - whatever ends the run is what its person is told
        status = 1
        if not isinstance(error, RunError):
            sys.stderr.write(faults.traceback_text(error))
        kind, sentence = kind_and_sentence(error)
        with suppress(AttemptOverError):
            fields = {"phase": Phase.DONE, "finished_at": time.time(), "error": sentence, "error_kind": kind}
            store.enter(run_id, State.FAILED, attempt=run.attempt, **fields)
    over.set()
    beats.join()
    return status


def _beat(store: Store, run_id: str, attempt: int, over: threading.Event) -> None:
    """Say that somebody follows the run; exit at once when it is another's."""
    while not over.is_set():
        with suppress(sqlite3.Error, OSError):
            if not store.beat(run_id, attempt) and not over.is_set():
                os._exit(_TAKEN_OVER)
        over.wait(HEARTBEAT_SECONDS)


if __name__ == "__main__":
    guard_output()
    sys.exit(main(sys.argv[1:]))
