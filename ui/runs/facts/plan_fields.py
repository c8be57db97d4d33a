"""Which fields of a plan have an effect, given its other values. Pure."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from specs import METHODS, TASK_TYPES, FinetunePlan


def used(plan: FinetunePlan) -> dict[str, Any]:
    """Return the fields of a plan that its method, its task and its other values use, in the plan's order."""
    method, task = METHODS[plan.method], TASK_TYPES[plan.task_type]
    idle = {name for name, is_idle in _IDLE.items() if is_idle(plan)}
    return {
        entry.name: getattr(plan, entry.name)
        for entry in dataclasses.fields(plan)
        if method.uses(entry.name) and task.uses(entry.name) and entry.name not in idle
    }


_IDLE: Mapping[str, Callable[[FinetunePlan], bool]] = {
    **dict.fromkeys(
        ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"),
        lambda plan: not plan.load_in_4bit,
    ),
    "prepare_kbit": lambda plan: not (plan.load_in_4bit or plan.load_in_8bit),
    "use_reentrant": lambda plan: not plan.gradient_checkpointing,
    "layer_offloading": lambda plan: not plan.load_in_4bit,
    "every_n_layers": lambda plan: not plan.gradient_checkpointing,
    "activation_offloading": lambda plan: not plan.gradient_checkpointing and not plan.activation_offloading,
    "torch_empty_cache_steps": lambda plan: plan.torch_empty_cache_steps is None,
    "num_train_epochs": lambda plan: plan.max_steps > 0,
    "max_steps": lambda plan: plan.max_steps <= 0,
    "sharding": lambda plan: plan.num_gpus == 1,
    "offload": lambda plan: plan.num_gpus == 1 and plan.offload == "none",
    "load_best_model_at_end": lambda plan: not plan.eval_split and not plan.load_best_model_at_end,
    "early_stopping_patience": lambda plan: plan.early_stopping_patience is None,
    "rank_pattern": lambda plan: not plan.rank_pattern,
    "alpha_pattern": lambda plan: not plan.alpha_pattern,
    "target_parameters": lambda plan: not plan.target_parameters,
    "layers_to_transform": lambda plan: not plan.layers_to_transform,
    "modules_to_save": lambda plan: not plan.modules_to_save,
    "trainable_token_indices": lambda plan: not plan.trainable_token_indices,
}
"""When the other values of a plan leave a field without effect."""
