"""A model divided over the processes of a run by accelerate (FSDP2): gathered to be kept, filled on resuming."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from transformers import Trainer

from specs import FinetunePlan
from trainer.results import checkpoints
from trainer.worker.loop import states

ARGUMENTS: Mapping[str, Any] = {"version": 2, "reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"}
"""What ``fsdp_config`` says. Each process loads the whole model before it is divided: ``cpu_ram_efficient_loading`` is
for weights that transformers loads under FSDP's own launcher."""


def is_sharded(plan: FinetunePlan) -> bool:
    """Return whether each process of a plan holds a part of the model."""
    return plan.sharding == "fsdp"


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a weight: all of it, unless it is divided."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def gathered(model: nn.Module) -> dict[str, Any]:
    """Return the trained weights in main memory, complete in the leading process; every process must call this.

    A weight that two modules share has one name, as in a file that transformers writes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    once = {name for name, _ in model.named_parameters()}
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    return {name: weight for name, weight in get_model_state_dict(model, options=options).items() if name not in shared}


class ShardingTrainer(Trainer):
    """A trainer whose model may be divided over its processes; its checkpoints are those of one process."""

    is_fsdp_enabled: bool

    def create_accelerator_and_postprocess(self) -> None:
        """Let accelerate divide the model on CPUs too: with ``use_cpu`` it ignores its FSDP plugin (1.15.0)."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp_plugin_args is None or self.is_fsdp_enabled:
            return
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        self.is_fsdp_enabled = True

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Read the weights of a checkpoint before they are divided, into however many parts there are now."""
        if self.is_fsdp_enabled and resume_from_checkpoint is not None:
            self.is_fsdp_enabled = False
            try:
                super()._load_from_checkpoint(resume_from_checkpoint)
            finally:
                self.is_fsdp_enabled = True
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        """Write the trained weights as one process would."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = gathered(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = self._optimizer_state()
        if self.args.should_save:
            states.save(state, Path(output_dir) / checkpoints.OPTIMIZER)
            states.save(self.lr_scheduler.state_dict(), Path(output_dir) / checkpoints.SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = states.load(checkpoints.to_load(checkpoint, checkpoints.OPTIMIZER))
        if self.is_fsdp_enabled:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer = _optimizer(self.optimizer)
            set_optimizer_state_dict(self.model, optimizer, _by_name(state, self.model, optimizer), options=options)
        else:
            self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(states.load(checkpoints.to_load(checkpoint, checkpoints.SCHEDULER)))

    def _optimizer_state(self) -> Any:
        if not self.is_fsdp_enabled:
            return self.optimizer.state_dict() if self.args.should_save else {}
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.model, _optimizer(self.optimizer), options=options)


def _optimizer(wrapped: Any) -> torch.optim.Optimizer:
    return getattr(wrapped, "optimizer", wrapped)


def _by_name(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state with the names of its weights, which one process calls by their numbers."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    now = [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    saved = [key for group in state["param_groups"] for key in group["params"]]
    named = dict(zip(saved, now, strict=True))
    groups = [{**group, "params": [named[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {named[key]: values for key, values in state["state"].items()}, "param_groups": groups}
