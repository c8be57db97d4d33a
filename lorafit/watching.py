"""A run as it stands: its state, its newest figures, what they show, and what an evaluation found."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from specs import RunError, paths
from trainer.results import evaluation
from trainer.results.evaluation import Evaluation
from trainer.runs.contract import Answer, Metric, Run
from trainer.runs.diagnosis import Diagnosis, diagnoses
from trainer.runs.export import run_dict
from trainer.runs.store import Store

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A run at one moment."""

    run: Run
    newest: Metric | None
    """The figures of the last step that has any."""
    held_out: Metric | None
    """Those of the last step at which the held-out rows were measured."""
    diagnoses: tuple[Diagnosis, ...]
    """What the curves show, and what to change."""
    answers: tuple[Answer, ...]
    """The questions with the answers of both models, once they are asked."""
    evaluation: Evaluation | None
    """The newest evaluation; None if there never was one."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "run": run_dict(self.run),
            "newest": _plain(self.newest),
            "held_out": _plain(self.held_out),
            "diagnoses": [_plain(found) for found in self.diagnoses],
            "answers": [_plain(answer) for answer in self.answers],
            "evaluation": _plain(self.evaluation),
        }


def _plain(one: Any) -> dict[str, Any] | None:
    """Return a record as plain JSON values."""
    return None if one is None else dataclasses.asdict(one)


def line(run: Run) -> dict[str, Any]:
    """Return what tells a run from others, as plain JSON values."""
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "phase": run.phase,
        "step": run.step,
        "total_steps": run.total_steps,
        "model": run.plan.model_name_or_path,
        "method": run.plan.method,
        "error": run.error,
    }


def known_runs() -> Store:
    """Return the store of the runs folder, which is not made if there is none.

    Raises:
        RunError: If no run was ever started.
    """
    folder = paths.runs()
    if not folder.is_dir():
        raise RunError("runs", "has no run yet", None, "Start one first")
    return Store(folder)


def watched(store: Store, run_id: str, *, seconds: float = 0) -> Watched:
    """Return a run as it stands once it is over, or after some seconds.

    Raises:
        RunError: If there is no such run.
    """
    run = waited_for(store, run_id, seconds=seconds)
    metrics = store.metrics(run.id)
    return Watched(
        run=run,
        newest=metrics[-1] if metrics else None,
        held_out=next((metric for metric in reversed(metrics) if metric.eval_loss is not None), None),
        diagnoses=tuple(diagnoses(metrics, run.plan.method)),
        answers=store.answers(run.id),
        evaluation=evaluation.latest(store, run),
    )


def waited_for(store: Store, run_id: str, *, seconds: float) -> Run:
    """Return a run once it is over, or after some seconds; the run itself goes on whoever waits.

    Raises:
        RunError: If there is no such run.
    """
    until = time.monotonic() + seconds
    while not (run := store.run(run_id)).is_over and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_SECONDS))
    return run
