"""A run's model held against its base: starts the process that does it, and tells how far it is and what it found.

Loads no model itself. The process outlives the page or the terminal that started it; what it found is a file of the
run's folder, and stays until the next evaluation has found something else.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from specs import TASK_TYPES, DataError, RunError
from specs.launch import MEMORY_LIMIT
from specs.paths import REPO
from trainer import files
from trainer.data.files.reading import require_file
from trainer.data.source import DataSource
from trainer.results.chat import refuse_while_in_use
from trainer.runs import processes
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.launcher import OFFLINE, worker_environment
from trainer.runs.store import Store
from trainer.sandbox import running

FOLDER = "evaluation"
LOG = "evaluation.log"
FOUND, ROWS = "found.json", "rows.json"
"""What was found in all, and row by row."""
PROGRESS, STOP = "progress.json", "stop"
"""How far the process is, and the file that asks it to end."""
_PROCESS, _WANTED, _LOCK = "process", "wanted.json", "lock"

BENCHMARK = "benchmark"
"""What a benchmark's scores are called among what was compared: they are told and decide nothing."""
OWN_TASK = (".yaml", ".yml")
"""How the name of a benchmark ends that is a file with a task of one's own."""
LM_EVAL = "lm-eval==0.4.13"
"""What benchmarks come from: not among LoRAFit's packages, since it brings 25 of its own."""

MOST_ROWS, MOST_ANSWERS = 100, 20
"""Rows and answers, unless somebody wants others: with SmolLM2-135M on two cores they take less than three minutes."""

_POLL_SECONDS = 0.5

Stage = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How much is evaluated, and on what."""

    rows: int = MOST_ROWS
    answers: int = MOST_ANSWERS
    """Of how many rows the answers are also written by both models."""
    data: DataSource | None = None
    """Other rows of the same kind; without, those of the run's own data that it did not learn."""
    benchmark: str = ""
    """A task of lm-eval that both models are also given, or the path of its YAML file; empty for none."""
    limit: int = MOST_ROWS
    """Questions of that, at most."""
    run_code: bool = False
    """Whether answers are run as programs, with the tests that their rows bring."""

    def __post_init__(self) -> None:
        """Refuse numbers that say nothing.

        Raises:
            RunError: If there are no rows, or fewer than no answers.
        """
        if self.rows < 1:
            raise RunError("--rows", "must be at least 1", self.rows)
        if self.answers < 0:
            raise RunError("--answers", "must be 0 or more", self.answers)
        if self.limit < 1:
            raise RunError("--limit", "must be at least 1", self.limit)

    def to_json(self) -> str:
        """Return the wish as one argument of a process."""
        return json.dumps({**dataclasses.asdict(self), "data": self.data and dataclasses.asdict(self.data)})

    @classmethod
    def from_json(cls, text: str) -> "Wanted":
        """Return what ``to_json`` wrote."""
        values = json.loads(text)
        data = values["data"] and DataSource(**{**values["data"], "prompts": tuple(values["data"]["prompts"])})
        return cls(**{**values, "data": data})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The newest evaluation of a run."""

    stage: Stage
    done: int = 0
    of: int = 0
    """Rows read and answers written, of all."""
    sentence: str = ""
    """What it is doing, or why it ended without a result."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """The last complete result, as ``trainer.worker.evaluating`` writes it; empty if there is none yet."""

    @property
    def is_better(self) -> bool:
        """Whether the tuned model was found to be better than its base."""
        return bool(self.found and self.found["verdict"]["better"])


def learned_all(run: Run) -> bool:
    """Return whether a run surely learned every row of its data: one that brings its own questions spares none."""
    if run.details.get("combined", {}).get("shares_rows"):
        return True  # of several runs on the same data, one may have learned what another held out
    return not run.plan.eval_split and not run.data.evaluation_split and bool(run.data.prompts)


def no_rows() -> DataError:
    """Return the refusal of a run that left no row of its data to be judged by."""
    way_out = "Evaluate on a file of other rows, or hold some out with eval_split"
    return DataError("evaluation", "needs rows that were not learned, and this run learned all", None, way_out)


def start(store: Store, run: Run, wanted: Wanted) -> None:
    """Start an evaluation, unless one of the run is under way.

    Raises:
        DataError: If the run learned every row, and no others are given, or there is no file of these.
        RunError: If the run has saved no result, a run is using its device, or something else of it is evaluated.
    """
    result_folder(store, run)
    if wanted.benchmark:
        _require_benchmarks(run)
    if wanted.benchmark.endswith(OWN_TASK):  # the worker runs in another folder
        wanted = dataclasses.replace(wanted, benchmark=str(_own_task(wanted.benchmark)))
    if wanted.run_code:
        _require_code(run, wanted)
    if wanted.data is not None:
        require_file(Path(wanted.data.path))
    elif learned_all(run):
        raise no_rows()
    refuse_while_in_use(store, run, "evaluation")
    _require_alone(store, run)
    folder = store.run_folder(run.id) / FOLDER
    folder.mkdir(exist_ok=True)
    with files.interlock(folder / _LOCK):
        if _lives(folder) and "stage" not in _read(folder / PROGRESS):
            _require_same(folder, wanted)
            return
        for name in (STOP, PROGRESS):
            (folder / name).unlink(missing_ok=True)
        (folder / _WANTED).write_text(wanted.to_json(), encoding="utf-8")
        with (store.run_folder(run.id) / LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer.worker.evaluating", str(store.folder), run.id, wanted.to_json()],
                cwd=REPO,
                env=_environment(run, wanted),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (folder / _PROCESS).write_text(processes.identity(process.pid) or "", encoding="utf-8")
        threading.Thread(target=process.wait, daemon=True).start()


def lacks_benchmarks() -> str:
    """Return the command that installs what benchmarks come from; empty if it is here."""
    return "" if importlib.util.find_spec("lm_eval") else f"{sys.executable} -m pip install {LM_EVAL}"


def _require_benchmarks(run: Run) -> None:
    """Refuse a benchmark where nothing here could run it.

    Raises:
        RunError: If lm-eval is not installed, or the run's model writes no text or has an encoder.
    """
    if run.plan.task_type != "CAUSAL_LM":
        rule = f"is for models of text generation, not of {TASK_TYPES[run.plan.task_type].label}"
        raise RunError("--benchmark", rule, None, "Leave it out")
    if command := lacks_benchmarks():
        raise RunError("--benchmark", "needs lm-eval, which is not installed", None, f"Install it: {command}")


def _own_task(path: str) -> Path:
    """Return the whole path of the YAML file of a task.

    Raises:
        RunError: If there is none.
    """
    if not Path(path).is_file():
        raise RunError("--benchmark", "must be a file that is there", path, "Correct its path, or name lm-eval's task")
    return Path(path).resolve()


def _require_code(run: Run, wanted: Wanted) -> None:
    """Refuse to run answers where none are written, or nothing here could confine them.

    Raises:
        RunError: If the run's model writes no text, no answers are wanted, or there is no sandbox.
    """
    if not TASK_TYPES[run.plan.task_type].writes or not wanted.answers:
        rule = "runs answers, and none are written"
        raise RunError("--run-code", rule, None, "Leave it out, or ask for more than 0 --answers")
    running.require()


def _require_alone(store: Store, run: Run) -> None:
    """Refuse to load a second model onto a device on which another run is being evaluated.

    Raises:
        RunError: If one is.
    """
    for other in store.runs():
        if other.id == run.id or other.place.here != run.place.here:
            continue
        found = latest(store, other)
        if found is not None and found.stage == "running":
            rule = f"needs the device {run.place.here}, on which run {other.id} is being evaluated"
            raise RunError("evaluation", rule, None, "Stop that evaluation on its page, or wait for its end")


def _require_same(folder: Path, wanted: Wanted) -> None:
    """Refuse to take an evaluation that is under way for another one.

    Raises:
        RunError: If it has other rows or answers.
    """
    if _read(folder / _WANTED) not in ({}, json.loads(wanted.to_json())):
        rule, way_out = (
            "of this run is under way with other rows or answers",
            "Wait for its end, or stop it on its page",
        )
        raise RunError("evaluation", rule, None, way_out)


def _environment(run: Run, wanted: Wanted) -> dict[str, str]:
    """Return the environment of the process: a worker's, without what keeps its memory as predicted and costs time.

    A benchmark's data comes from the Hub, which a worker whose model is here is otherwise kept from asking.
    """
    values = worker_environment(run, os.environ)
    unwanted = {MEMORY_LIMIT, *(OFFLINE if wanted.benchmark else ())}
    return {name: value for name, value in values.items() if name not in unwanted or name in os.environ}


def stop(store: Store, run: Run) -> None:
    """Ask the evaluation of a run to end; what an earlier one found stays."""
    folder = store.run_folder(run.id) / FOLDER
    if folder.is_dir():
        (folder / STOP).touch()


def latest(store: Store, run: Run) -> Evaluation | None:
    """Return the newest evaluation of a run, or None if there never was one."""
    folder = store.run_folder(run.id) / FOLDER
    if not folder.is_dir():
        return None
    lives = _lives(folder)  # asked first: what a process writes before it ends must not be missed
    progress, found = _read(folder / PROGRESS), _read(folder / FOUND)
    if lives and "stage" not in progress:
        words = {"done": 0, "of": 0, "sentence": "reading the rows", **progress}
        return Evaluation(stage="running", found=found, **words)
    if progress.get("stage"):
        return Evaluation(found=found, **progress)
    sentence = RunError("evaluation", "ended without giving a reason", None, f"Its log is {LOG} in the run's folder")
    return Evaluation(stage="failed", found=found, sentence=str(sentence))


def asked(store: Store, run: Run) -> Wanted | None:
    """Return what the newest evaluation of a run was asked for, or None if there never was one."""
    values = _read(store.run_folder(run.id) / FOLDER / _WANTED)
    return Wanted.from_json(json.dumps(values)) if values else None


def waited_for(store: Store, run: Run, tell: Callable[[Evaluation], object] = lambda _: None) -> Evaluation:
    """Return what an evaluation found, once it is over; ``tell`` is called each time that it got further.

    Raises:
        RunError: If it ended before it found anything.
    """
    told = None
    while (now := latest(store, run)) is not None and now.stage == "running":
        if now != told:
            tell(now)
        told = now
        time.sleep(_POLL_SECONDS)
    if now is None or now.stage != "done":
        why = "It left nothing behind" if now is None else now.sentence
        raise RunError("evaluation", "ended before it found anything", None, why)
    return now


def other_rows(own: DataSource, *, path: str, columns: Mapping[str, str], split: str = "train") -> DataSource:
    """Return rows of another file or split, read as a run reads its own, without its held-out split and questions."""
    return dataclasses.replace(own, path=path, columns=columns, split=split, evaluation_split="", prompts=())


def rows(store: Store, run: Run) -> Sequence[Mapping[str, Any]]:
    """Return what the last complete evaluation found row by row."""
    kept: Sequence[Mapping[str, Any]] = _read(store.run_folder(run.id) / FOLDER / ROWS).get("rows", ())
    return kept


def _lives(folder: Path) -> bool:
    try:
        identity = (folder / _PROCESS).read_text(encoding="utf-8")
    except OSError:
        return False
    return bool(identity) and processes.lives(identity)


def _read(path: Path) -> dict[str, Any]:
    """Return a file of JSON; a missing or damaged one is empty."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
