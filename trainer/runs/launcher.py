"""Starts workers: detached processes that outlive the page, the server and the terminal that started them."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from specs import LorafitError, RunError
from specs.launch import device_environment, torchrun_arguments
from specs.paths import REPO
from trainer import files
from trainer.runs import crash_notes, deaths, processes
from trainer.runs.contract import Run, State
from trainer.runs.store import LOG, Store

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that keep a process whose model is here from asking the Hub."""


def launch(store: Store, run_id: str) -> None:
    """Start the run's worker if its device is free; otherwise the run waits, and the worker before it starts it.

    Raises:
        RunError: If there is no such run, or no worker can be started.
    """
    start_next(store, store.run(run_id).place.device)


def start_waiting(store: Store) -> None:
    """Start runs that wait for a free device, and remove what was left half written: who should have may have died.

    What was deleted long ago goes too.
    """
    for home in (store.folder, *store.folder.iterdir()):
        files.tidy(home)
    store.sweep()
    for run in store.claim_forsaken():
        _started(store, run, again=True)
    for device in store.waiting_devices():
        start_next(store, device)


def start_next(store: Store, device: str) -> None:
    """Start the worker of the oldest run that waits for a device, if the device is free."""
    run = store.claim_next(device)
    if run is not None:
        _started(store, run)


def _started(store: Store, run: Run, *, again: bool = False) -> None:
    """Start the process that works on a run, or that follows it again where it trains elsewhere."""
    try:
        _start_worker(store, run, again=again)
    except (OSError, RunError) as error:
        sentence = error if isinstance(error, RunError) else RunError("worker", "could not be started", str(error))
        store.enter(run.id, State.FAILED, attempt=run.attempt, error=str(sentence), error_kind="unexpected")
        raise sentence from error


def _start_worker(store: Store, run: Run, *, again: bool) -> None:
    if run.process is not None:
        # The worker before may only have been silent: two must not write to one run, nor share a device.
        processes.end(run.process)
    kills = deaths.oom_kills()
    crash_notes.forget(store.run_folder(run.id))
    command = [sys.executable, "-u", *worker_arguments(store, run), *(["--again"] if again else [])]
    with (store.run_folder(run.id) / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=worker_environment(run, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    store.started(run.id, run.attempt, processes.identity(process.pid), kills)
    # Collects the exit status: it names a death, and a finished worker leaves no zombie in a server that keeps running.
    threading.Thread(target=_wait, args=(store, run, process), daemon=True).start()


def _wait(store: Store, run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a worker; if it could not say how its run ended, say so. Go on with the next run.

    A store that cannot be written is left to the heartbeat, whose silence tells the same later.
    """
    status = process.wait()
    with suppress(sqlite3.Error, OSError, LorafitError):
        if not run.place.away or status == 0:  # what trains elsewhere goes on, and is followed again at once
            store.bury(run, status)
        start_waiting(store)  # it may have ended its run, and died before it started the next one


def worker_arguments(store: Store, run: Run) -> list[str]:
    """Return the arguments for Python: the worker's module, under torchrun if the plan needs several processes.

    For a run that trains elsewhere it is the module that takes it there; the worker there is started in this same way.
    """
    given = [str(store.folder), run.id, str(run.attempt)]
    if run.place.away:
        return ["-m", "trainer.away", *given]
    worker = ["trainer.worker", *given]
    if run.plan.num_gpus == 1:
        return ["-m", *worker]
    return ["-m", *torchrun_arguments(run.plan.num_gpus), "-m", *worker]


def worker_environment(run: Run, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a run's worker.

    Raises:
        RunError: If the run names a device that torch does not know.
    """
    values = {
        **device_environment(run.place.here, environment),
        "PYTHONPATH": str(REPO),
        "PYTHONUNBUFFERED": "1",
    }
    if Path(run.model).is_dir():
        values |= dict.fromkeys(OFFLINE, "1")
    return values
