"""PEFT's configuration of a plan's adapter: one function per PEFT type."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD_MODULES
from torch import nn
from transformers.pytorch_utils import Conv1D

from specs import METHODS, TASK_TYPES, FinetunePlan, PlanError
from specs.errors import nearest
from specs.fields import Pattern
from trainer.model.layers import layers, task_head


def adapter_config(plan: FinetunePlan, model: nn.Module) -> PeftConfig:
    """Return PEFT's configuration of a plan's adapter for a model.

    Raises:
        PlanError: If the model lacks a target module, or one that a pattern names.
    """
    config = _KINDS[METHODS[plan.method].peft_type](plan, model)
    config.task_type = plan.task_type
    if TASK_TYPES[plan.task_type].has_head:
        config.modules_to_save = list(task_head(model))
    return config


def is_adalora(model: nn.Module) -> bool:
    """Return whether a model's adapter is AdaLoRA, which has a rank budget."""
    return isinstance(model, PeftModel) and isinstance(model.peft_config["default"], AdaLoraConfig)


def orthogonality(model: nn.Module) -> torch.Tensor | None:
    """Return how far AdaLoRA's matrices are from orthogonal, weighted for the loss; None for other adapters.

    PEFT adds it to the model's own loss, which TRL's chunked loss does not use.

    Source:
        Zhang et al. 2023, AdaLoRA, equation 4, https://arxiv.org/abs/2303.10512; as PEFT 0.21, AdaLoraModel.forward.
    """
    if not is_adalora(model):
        return None
    parts = [_gram(weight) for name, weight in model.named_parameters() if re.search(r"\.lora_[AB]\.", name)]
    norms = [torch.linalg.matrix_norm(part - torch.eye(len(part)).to(part)) for part in parts]
    return model.peft_config["default"].orth_reg_weight * torch.stack(norms).mean()


def _gram(weight: torch.Tensor) -> torch.Tensor:
    """Return the dot products of a matrix's rank directions with each other: (r, r)."""
    return weight @ weight.T if len(weight) < len(weight.T) else weight.T @ weight


def _lora(plan: FinetunePlan, model: nn.Module) -> PeftConfig:
    on_meta = next(model.parameters()).is_meta
    known: dict[str, Any] = {"default": True, "pissa": "pissa", "gaussian": "gaussian"}
    return LoraConfig(
        **_shared(plan, model),
        target_parameters=[*plan.target_parameters] or None,
        r=plan.r,
        use_rslora=plan.use_rslora,
        use_dora=plan.use_dora,
        # PiSSA decomposes the weights, which do not exist on meta; the tensors are the same.
        init_lora_weights=known["default" if on_meta else plan.init_lora_weights],
        rank_pattern=_pattern(plan.rank_pattern, "rank_pattern", model),
        alpha_pattern=_pattern(plan.alpha_pattern, "alpha_pattern", model),
    )


def _adalora(plan: FinetunePlan, model: nn.Module) -> PeftConfig:
    # The steps of a run by epochs are known only once its data is; trainer/worker/loop/adalora.py then corrects them.
    total_step = plan.max_steps if plan.max_steps > 0 else plan.tinit + plan.tfinal + 1
    return AdaLoraConfig(
        **_shared(plan, model),
        init_r=plan.init_r,
        target_r=plan.target_r,
        tinit=plan.tinit,
        tfinal=plan.tfinal,
        deltaT=plan.deltaT,
        total_step=total_step,
    )


def _ia3(plan: FinetunePlan, model: nn.Module) -> PeftConfig:
    """Return IA3's vectors: on the inputs of feed-forward modules and on the outputs of the others."""
    names = FEEDFORWARD_MODULES.get(model.config.model_type, ())
    # A regular expression: names would have to be listed in target_modules too, and all-linear lists none.
    feedforward = rf".*({'|'.join(map(re.escape, names))})" if names else []
    return IA3Config(**_where(plan, model), feedforward_modules=feedforward, fan_in_fan_out=_has_conv1d(model))


def _prompt_tuning(plan: FinetunePlan, _model: nn.Module) -> PeftConfig:
    return PromptTuningConfig(num_virtual_tokens=plan.num_virtual_tokens, prompt_tuning_init=plan.prompt_tuning_init)


def _prefix_tuning(plan: FinetunePlan, _model: nn.Module) -> PeftConfig:
    # PEFT's method comparison, MetaMathQA on Llama-3.2-3B: 35.8 % from zeros, 18.6 % from random keys and values.
    return PrefixTuningConfig(num_virtual_tokens=plan.num_virtual_tokens, init_weights="zero")


_KINDS: Mapping[str | None, Callable[[FinetunePlan, nn.Module], PeftConfig]] = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "IA3": _ia3,
    "PROMPT_TUNING": _prompt_tuning,
    "PREFIX_TUNING": _prefix_tuning,
}


def _shared(plan: FinetunePlan, model: nn.Module) -> dict[str, Any]:
    """Return what LoRA and AdaLoRA have in common."""
    return {
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        **_where(plan, model),
        "bias": plan.bias,
        "fan_in_fan_out": _has_conv1d(model),
    }


def _has_conv1d(model: nn.Module) -> bool:
    """Return whether linear layers store their weights transposed, as in GPT-2; left to detect it, PEFT would warn."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _where(plan: FinetunePlan, model: nn.Module) -> dict[str, Any]:
    """Return which modules get an adapter, always by name: what PEFT takes ``all-linear`` for depends on the model.

    Raises:
        PlanError: If the model lacks a target, or no adapter can be put there.
    """
    targets = layers(model).resolved(plan)
    return {"target_modules": [*targets.modules], "exclude_modules": targets.excluded or None}


def _pattern(pattern: Pattern, field: str, model: nn.Module) -> dict[str, int]:
    """Return a pattern as PEFT takes it.

    Raises:
        PlanError: If a name matches no module; PEFT would silently ignore it.
    """
    linear = layers(model)
    paths = [path for layer in linear.linear for path in layer.paths]
    for name, _ in pattern:
        # Matches as get_pattern_key in peft/utils/other.py does.
        expression = re.compile(rf"(.*\.)?({name})$")
        if not any(expression.match(path) for path in paths):
            raise PlanError(field, "must name linear modules of the model", name, nearest(name, linear.nameable))
    return dict(pattern)
