"""Waits for what real workers do."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

from tests.patience import PATIENCE
from trainer.runs import launcher
from trainer.runs.contract import State
from trainer.runs.session import Session
from trainer.worker.train import train

_TRIES = 3
"""Steps of a tiny model are done in a moment: on a busy machine, a run may end before it is killed."""


def waited(store, run_id, condition):
    """The run, once a condition holds of it; one that is only silent for long may beat again."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        run = store.run(run_id)
        if condition(run):
            return run
        assert condition is over or not run.is_over or run.state is State.LOST, f"{run.state}: {run.error}"
        time.sleep(0.05)
    raise AssertionError(f"{run.state}, {run.phase}, step {run.step} after {PATIENCE} s")


def over(run):
    return run.is_over


def losses_of(store, run_id):
    return [metric.loss for metric in store.metrics(run_id)]


def worker_of(run_id) -> psutil.Process:
    """The process that works on a run; started here, so found among our own children."""
    found = [child for child in psutil.Process().children() if run_id in child.cmdline()]
    assert len(found) == 1
    return found[0]


def killed_and_resumed(store, plan, data, place, *, at):
    """The run of a plan whose worker is killed once it has done some steps, and which then goes on to its end.

    The worker that is killed is a process of its own; what resumes it is this one, which has imported all it needs.
    """
    for _ in range(_TRIES):
        run = store.create(plan, data, place=place)
        launcher.launch(store, run.id)
        waited(store, run.id, lambda run: run.step >= at or run.is_over)
        with suppress(psutil.NoSuchProcess, ProcessLookupError, AssertionError):
            os.kill(worker_of(run.id).pid, signal.SIGKILL)
        if waited(store, run.id, over).state is State.LOST:
            break
    assert store.run(run.id).state is State.LOST
    store.request_resume(run.id)
    resumed = store.claim_next(run.place.device)
    assert (resumed.id, resumed.attempt) == (run.id, 2)
    state = train(Session(resumed, store, threading.Event()))
    store.enter(run.id, state, attempt=resumed.attempt)
    assert state is State.FINISHED
    return store.run(run.id)
