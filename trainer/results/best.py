"""Which checkpoint of a run to keep: the one with the lowest held-out loss; and making it the run's result."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specs import RunError
from trainer import files
from trainer.results import checkpoints, evaluation
from trainer.runs.contract import Metric, Run
from trainer.runs.export import result_folder
from trainer.runs.store import Store

_NOTABLE = 0.01
"""How much lower, of itself, a held-out loss must be to name its checkpoint: as ``diagnosis`` calls a loss flat."""
_STATES = frozenset({checkpoints.OPTIMIZER, checkpoints.SCHEDULER, checkpoints.SCALER})
_RANDOM = "rng_state_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The evaluated step of a run that is best on held-out rows, and how the run's result compares with it."""

    step: int
    loss: float
    """Its held-out loss."""
    result_step: int
    """The step whose weights are the run's result."""
    evaluated_step: int
    result_loss: float
    """The last evaluation up to that step, and what it measured."""
    num_evaluated: int
    is_saved: bool
    """Whether the checkpoint of the best step is complete on the disk."""

    @property
    def is_better(self) -> bool:
        """Whether keeping it would change something."""
        return self.step != self.result_step and self.loss < (1 - _NOTABLE) * self.result_loss

    def sentence(self, run_id: str) -> str:
        """Return what to keep and how, with the losses that say so."""
        if not self.is_better:
            return (
                f"Keep the weights of step {self.result_step:,}, whose held-out loss is {self.result_loss:.4f}: none "
                f"of the {self.num_evaluated} evaluations found a notably lower one."
            )
        of = f"after step {self.evaluated_step:,}" if self.evaluated_step != self.result_step else "of the result"
        compared = f"its held-out loss is {self.loss:.4f}, that {of} {self.result_loss:.4f}"
        how = f"To use it: python -m trainer keep {run_id} {self.step}" if self.is_saved else "It is no longer saved"
        return f"Step {self.step:,} was the best of {self.num_evaluated} evaluations: {compared}. {how}."


def best(store: Store, run: Run, metrics: Sequence[Metric]) -> Best | None:
    """Return which step of a run was best on held-out rows; None if that says nothing about what to keep.

    Args:
        store: Where the run is kept.
        run: The run.
        metrics: Its metrics.
    """
    losses = {metric.step: metric.eval_loss for metric in metrics if metric.eval_loss is not None}
    if len(losses) < 2 or not run.is_over:
        return None
    step = min(losses, key=lambda one: (losses[one], one))
    # With load_best_model_at_end, transformers has put the best weights back.
    loads_best = run.plan.load_best_model_at_end and run.result_step == run.step
    result_step = step if loads_best else run.result_step
    evaluated = max((one for one in losses if one <= result_step), default=None)
    if evaluated is None:
        return None
    return Best(
        step=step,
        loss=losses[step],
        result_step=result_step,
        evaluated_step=evaluated,
        result_loss=losses[evaluated],
        num_evaluated=len(losses),
        is_saved=step in checkpoints.saved_steps(store.run_folder(run.id)),
    )


def told(store: Store, run: Run, metrics: Sequence[Metric]) -> list[str]:
    """Return in a sentence which checkpoint to keep; nothing where nothing says so."""
    found = best(store, run, metrics)
    return [] if found is None else [found.sentence(run.id)]


def keep(store: Store, run: Run, step: int) -> None:
    """Make the weights of a checkpoint the result of a run: what is asked, merged, evaluated, exported and uploaded.

    Raises:
        RunError: If the run is not over or is being evaluated, has saved no result, or has no such checkpoint.
    """
    result = result_folder(store, run)
    if not run.is_over:
        raise RunError(f"run {run.id}", "must be over before its result changes", str(run.state), "Stop it, or wait")
    latest = evaluation.latest(store, run)
    if latest is not None and latest.stage == "running":
        raise RunError(f"run {run.id}", "is being evaluated", None, "Wait for the end of that, or stop it on its page")
    folder, saved = store.run_folder(run.id), checkpoints.saved_steps(store.run_folder(run.id))
    if step not in saved:
        rule = f"is no step of run {run.id} with a complete checkpoint"
        way_out = f"Choose {' or '.join(f'{one:,}' for one in saved)}" if saved else "It has none"
        raise RunError("step", rule, step, way_out)
    source = checkpoints.folder_of(folder, step)
    weights = [path for path in source.rglob("*") if _is_of_the_result(path)]
    files.require_space(folder, sum(path.stat().st_size for path in weights), "keeping a checkpoint")
    with files.replaced(result) as target:
        shutil.copytree(result, target, dirs_exist_ok=True)
        for path in weights:
            shutil.copyfile(path, target / path.relative_to(source))
    store.add_details(run.id, result_step=step)
    store.add_event(run.id, "result", f"The result is now the weights of step {step:,}.")


def _is_of_the_result(path: Path) -> bool:
    """Return whether a file of a checkpoint holds weights, or says how they are read; all else the result has."""
    is_state = path.name in _STATES or path.name.startswith(_RANDOM)
    return path.name == "adapter_config.json" or (path.name.endswith((".safetensors", ".index.json")) and not is_state)
