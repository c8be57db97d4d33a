"""A model as it stays loaded while adapters are put on it and taken off again, one at a time."""

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from specs import FinetunePlan
from trainer.model.build import Source, adaptable, with_adapter
from trainer.model.layers import task_head


class LoadedModel:
    """The base model of a run. Every adapter that is put on it begins as in a run of its own."""

    def __init__(self, plan: FinetunePlan, source: Source, *, device: str) -> None:
        """Load the base model of a plan, as ``trainer.model.build.build`` does.

        Raises:
            SpecError: If the model is of an unknown kind or cannot be read.
            PlanError: If the plan needs a package that is not installed.
        """
        self._model = adaptable(plan, source, device=device)
        self._heads = {name: copy.deepcopy(self._model.get_submodule(name)) for name in task_head(self._model)}
        self._device, self._seed = torch.device(device), plan.seed
        self._random = self._random_numbers()
        self._adapted: Any = None

    def adapted(self, plan: FinetunePlan) -> nn.Module:
        """Return the model with a new adapter, in training mode; the adapter before is taken off, and is of no use.

        Raises:
            PlanError: If the plan names modules that the model lacks.
        """
        self._take_off()
        torch.random.set_rng_state(self._random[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._random[1], self._device)
        if plan.seed != self._seed:
            torch.manual_seed(plan.seed)
        self._adapted = with_adapter(self._model, plan).train()
        return self._adapted

    def _take_off(self) -> None:
        """Take the adapter off, and give back its memory, whoever still holds it."""
        if not isinstance(self._adapted, PeftModel):
            return
        for weight in [weight for weight in self._adapted.parameters() if weight.requires_grad]:
            weight.data, weight.grad = weight.data.new_empty(0), None
        if not self._adapted.active_peft_config.is_prompt_learning:
            self._adapted.unload()
        for name, head in self._heads.items():  # PEFT leaves the trained one in its place
            self._model.set_submodule(name, copy.deepcopy(head))
        self._adapted = None

    def _random_numbers(self) -> tuple[torch.Tensor, ...]:
        """Return the state of the random numbers that adapters begin with."""
        on_card = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return (torch.random.get_rng_state(), *on_card)
