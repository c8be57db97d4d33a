"""What runs at the other place: ``python -m trainer.away.there VERB RUNS_FOLDER RUN_ID``.

``keep`` has a run trained by a worker, as the launcher does anywhere, and waits for its end; ``job`` is a keeper as the
job of a scheduler. ``tell`` prints what becomes of it as lines of JSON. All read and write only that runs folder.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from specs import FinetunePlan, LorafitError
from specs.launch import GIVEN_CARDS
from trainer.away import telling
from trainer.away.executor import KEPT_LOG, ORDERS, PARCEL, STOP
from trainer.runs import launcher, processes
from trainer.runs.contract import TAKEN, WISH, Phase, Run, State
from trainer.runs.store import Store

_TICK_SECONDS = 0.5
_TAKEN_SECONDS = 60.0
"""How long a keeper may take to take a run over: it imports and opens a store."""


def keep(folder: Path, run_id: str) -> int:
    """Have a run trained and wait until it is over; return the exit status."""
    store = Store(folder)
    home = store.run_folder(run_id)
    run = _taken(store, run_id, json.loads((home / ORDERS).read_text(encoding="utf-8")))
    launcher.launch(store, run.id)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(store.run(run_id)))
    asked = 0.0
    while not (run := store.run(run_id)).is_over:
        if (asked_at := _time_of(home / STOP)) > asked:
            asked = asked_at
            store.request_stop(run_id)
        time.sleep(_TICK_SECONDS)
    launcher.start_waiting(store)  # whoever waits for the worker may not have come to it
    return 0 if run.state in {State.FINISHED, State.STOPPED} else 1


def job(folder: Path, run_id: str) -> int:
    """Have a run kept as a scheduler's job: on the cards that it was given, and though the scheduler itself dies.

    Ray kills the group of its job's processes when its head node is gone: the keeper is in one of its own.
    """
    keeper = [sys.executable, "-u", "-m", "trainer.away.there", "keep", str(folder), run_id]
    given = {GIVEN_CARDS: os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    with (
        (folder / run_id / KEPT_LOG).open("ab") as log,
        subprocess.Popen(
            keeper, env={**os.environ, **given}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        return process.wait()


def _taken(store: Store, run_id: str, orders: Mapping[str, Any]) -> Run:
    """Return a run as it was sent, or the one that is here already, queued with the plan that was sent."""
    run = store.find(run_id)
    while run is not None and run.is_active and (run.process is None or not processes.lives(run.process)):
        time.sleep(_TICK_SECONDS)  # its worker was killed with the job before, and counts as lost in a moment
        run = store.find(run_id)
    if run is None:
        run = store.adopt(run_id, store.run_folder(run_id) / PARCEL)
    elif run.is_over and run.details.get(TAKEN) != orders[WISH]:
        run = store.request_resume(run_id, plan=FinetunePlan.from_dict(orders["plan"]))
    store.add_details(run_id, **{TAKEN: orders[WISH]})
    return run


def _pass_on(run: Run) -> None:
    """Have the worker save and exit, as its machine is to end what runs."""
    if run.process is not None and run.phase is not Phase.DONE:
        try:
            psutil.Process(int(run.process.split()[0])).terminate()
        except psutil.Error:
            return


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def tell(folder: Path, run_id: str, position: Mapping[str, Any]) -> int:
    """Print what becomes of a run until it is over; return the exit status."""
    store = Store(folder)
    for told in _told(store, run_id, position):
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()
        if told["over"] or told["gone"]:
            break
        time.sleep(_TICK_SECONDS)
    return 0


def _told(store: Store, run_id: str, position: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    home, began = store.run_folder(run_id), time.monotonic()
    wish = _wish(home)
    while True:
        run = store.find(run_id)  # also notices a worker that is silent
        taken = run is not None and run.details.get(TAKEN) == wish
        late = time.monotonic() - began > _TAKEN_SECONDS
        changes, position = telling.changes(home, position) if taken else ([], position)
        yield {
            "changes": changes,
            "position": position,
            "now": time.time(),
            "over": taken and run is not None and run.is_over,
            "gone": "" if taken or not late else telling.last_line(home / KEPT_LOG) or "its keeper did not start",
        }


def _wish(home: Path) -> int:
    try:
        return int(json.loads((home / ORDERS).read_text(encoding="utf-8"))[WISH])
    except (OSError, ValueError, LookupError):
        return -1


_KEEPING = {"keep": keep, "job": job}


def main(arguments: list[str]) -> int:
    """Do what the arguments ask for; return the exit status."""
    verb, folder, run_id, *more = arguments
    try:
        if verb in _KEEPING:
            return _KEEPING[verb](Path(folder), run_id)
        return tell(Path(folder), run_id, json.loads(more[0]))
    except LorafitError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:  # whoever listened is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
