"""AdaLoRA's rank budget: reallocated after each step, saved in checkpoints, restored when a run is resumed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback

from specs import FinetunePlan, PlanError
from trainer.model.adapters import is_adalora, orthogonality
from trainer.results import checkpoints

FILE = "rank_budget.safetensors"
"""The file in a checkpoint that holds the importance of each rank, and which ranks are left."""

_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""What PEFT's ``RankAllocator`` remembers about each weight: running means of importance and of its uncertainty."""


class RankBudget(TrainerCallback):
    """Lets AdaLoRA reduce ranks between ``tinit`` and ``tfinal``."""

    def __init__(self, folder: Path, plan: FinetunePlan) -> None:
        """Remember the run's folder, whose checkpoints hold the budget."""
        self._folder, self._plan = folder, plan

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Set the run's length, and restore the budget of the checkpoint that the run resumes from.

        Raises:
            PlanError: If the run is too short to reduce ranks.
        """
        if self._plan.tinit + self._plan.tfinal >= state.max_steps:
            rule = f"with tfinal ({self._plan.tfinal}) must leave some of the run's {state.max_steps} steps"
            raise PlanError("tinit", rule, self._plan.tinit, "Lower tinit or tfinal, or train longer")
        config = model.peft_config["default"]
        config.total_step = state.max_steps
        if state.global_step:
            _restore(model, checkpoints.folder_of(self._folder, state.global_step) / FILE, step=state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Reallocate the budget by the gradients of the step just taken."""
        model.base_model.update_and_allocate(state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Let the result be saved with all ranks, pruned ones as zeros.

        PEFT 0.21 would leave them out: it takes a module that lost all its ranks for a damaged one, and after a stop
        between two allocations it would leave out ranks that are active again.
        """
        model.peft_config["default"].rank_pattern = None


class BudgetedTrainer(Trainer):
    """A trainer that saves the rank budget in its checkpoints."""

    def orthogonality(self) -> torch.Tensor | float:
        """Return AdaLoRA's regularization, as one forward pass's share of the step's; 0 for other adapters.

        Call it before the forward pass: its backward pass then runs last, and until then holds no gradients.
        """
        model = self.accelerator.unwrap_model(self.model)
        added = orthogonality(model) if model.training else None
        # TRL sums the losses of accumulated passes in the same way: each counts as its share of the step's.
        return 0.0 if added is None else added / self.current_gradient_accumulation_steps

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        """Save the model; AdaLoRA's with all ranks, which the optimizer states have too, and with its budget."""
        model = self.accelerator.unwrap_model(self.model)
        if not is_adalora(model):
            super().save_model(output_dir, _internal_call)
            return
        with _every_rank(model.peft_config["default"]):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            _save(model, Path(output_dir or self.args.output_dir) / FILE)

    def _load_best_model(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        with _every_rank(model.peft_config["default"]) if is_adalora(model) else nullcontext():
            super()._load_best_model()


@contextmanager
def _every_rank(config: AdaLoraConfig) -> Iterator[None]:
    """Make PEFT save and load masked ranks too: without them, the optimizer states would not match the weights."""
    pattern, config.rank_pattern = config.rank_pattern, None
    yield
    config.rank_pattern = pattern


def _save(model: PeftModel, path: Path) -> None:
    allocator, config = model.base_model.rankallocator, model.peft_config["default"]
    tensors = {
        f"{average}.{name}": value for average in _AVERAGES for name, value in getattr(allocator, average).items()
    }
    facts = {"total_step": json.dumps(config.total_step), "rank_pattern": json.dumps(config.rank_pattern)}
    save_file(tensors, path, metadata=facts)


def _restore(model: PeftModel, path: Path, *, step: int) -> None:
    """Restore the budget of a checkpoint; a run extended after the last allocation keeps its ranks."""
    allocator, config = model.base_model.rankallocator, model.peft_config["default"]
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    for name, weight in model.base_model.model.named_parameters():
        for average in _AVERAGES:
            if f"{average}.{name}" in tensors:
                getattr(allocator, average)[name] = tensors[f"{average}.{name}"].to(weight)
                allocator.ipt[name] = torch.zeros_like(weight)
    config.rank_pattern = json.loads(facts["rank_pattern"])
    if step >= json.loads(facts["total_step"]) - config.tfinal:
        config.total_step = json.loads(facts["total_step"])
