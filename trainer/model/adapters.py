"""PEFT's configuration of a plan's adapter, from the table of adapters; and what PEFT leaves to its caller."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peft
import torch
from peft import AdaLoraConfig, EvaConfig, PeftConfig, PeftModel
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD_MODULES
from torch import nn
from transformers.pytorch_utils import Conv1D

from specs import METHODS, TASK_TYPES, FinetunePlan, PlanError
from specs.adapters import INITS, Adapter
from specs.errors import nearest
from specs.fields import Pattern
from trainer.model.layers import layers, norms, task_head


def adapter_config(plan: FinetunePlan, model: nn.Module) -> PeftConfig:
    """Return PEFT's configuration of a plan's adapter for a model.

    Raises:
        PlanError: If the model lacks a target module, or one that a pattern names.
    """
    entry = METHODS[plan.method]
    if entry.adapter is None:
        raise PlanError("method", "must train an adapter", plan.method)
    values = {name: getattr(plan, field) for name, field in entry.adapter.arguments.items()}
    values |= {**entry.adapter.constants, **_where(entry.adapter, plan, model)}
    values |= _MORE.get(entry.peft_type, _nothing_more)(plan, model)
    config: PeftConfig = getattr(peft, entry.adapter.config)(**values)
    config.task_type = plan.task_type
    head = task_head(model) if TASK_TYPES[plan.task_type].has_head else ()
    if whole := (*head, *_trained_whole(plan, model)):
        config.modules_to_save = list(whole)
    return config


def _trained_whole(plan: FinetunePlan, model: nn.Module) -> Sequence[str]:
    """Return the modules that a plan trains whole.

    Raises:
        PlanError: If the model lacks one, it has no weights of its own to train, or others share them.
    """
    if not METHODS[plan.method].uses("modules_to_save"):
        return ()
    modules = {path: module for path, module in model.named_modules() if path}
    for name in plan.modules_to_save:
        found = [module for path, module in modules.items() if path == name or path.endswith(f".{name}")]
        weights = [weight for module in found for weight in module.parameters()]
        if not weights:
            names = {path.rpartition(".")[2] for path in modules}
            way_out = nearest(name, sorted(name for name in names if not name.isdigit()))
            raise PlanError("modules_to_save", "must name modules of the model with weights", name, way_out)
        if not all(weight.is_floating_point() and not hasattr(weight, "quant_state") for weight in weights):
            way_out = "Leave it out, or do not quantize"
            raise PlanError("modules_to_save", "must name modules that are not quantized", name, way_out)
        if _shares_weights(model, found):
            rule = "must name modules that share no weights, as embeddings and head of this model do"
            raise PlanError("modules_to_save", rule, name, "Train single tokens with trainable_token_indices")
        if plan.trainable_token_indices and _holds(found, model.get_input_embeddings()):
            rule = "must leave out the table of words with trainable_token_indices, which trains rows of it"
            raise PlanError("modules_to_save", rule, name, "Leave it out, or name no tokens")
    return plan.modules_to_save


def _shares_weights(model: nn.Module, found: Sequence[nn.Module]) -> bool:
    """Return whether some modules are the embeddings or the head of a model in which both have the same weights."""
    both = ("get_input_embeddings", "get_output_embeddings")
    ends = [getattr(model, name)() for name in both if hasattr(model, name)]
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)) and None not in ends
    return tied and any(_holds(found, end) for end in ends)


def _holds(found: Sequence[nn.Module], one: nn.Module) -> bool:
    """Return whether a module is one of some, or within one."""
    return any(part is one for module in found for part in module.modules())


def _require_tokens(plan: FinetunePlan, model: nn.Module) -> None:
    """Refuse numbers of tokens that the model has not."""
    most = model.get_input_embeddings().weight.shape[0] - 1
    strange = [number for number in plan.trainable_token_indices if number > most]
    if strange:
        raise PlanError("trainable_token_indices", f"must be numbers of tokens, from 0 to {most:,}", strange[0])


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


def let_dtypes_meet(model: nn.Module) -> nn.Module:
    """Return a model whose adapter in 32 bit works on a base in 16 bit, also where PEFT 0.21 casts nothing.

    VeRA's shared matrices get the dtype of its vectors, and a trained norm gives out what came in.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, BaseTuner):
        return model
    for module in model.modules():
        if isinstance(module, LNTuningLayer):
            module.register_forward_hook(lambda _module, inputs, output: output.to(inputs[0].dtype))
    dtypes = {weight.dtype for name, weight in model.named_parameters() if "vera_lambda" in name}
    for name, matrix in model.named_buffers() if dtypes else ():
        if re.search(r"vera_[AB]\.", name):
            matrix.data = matrix.data.to(max(dtypes, key=lambda dtype: dtype.itemsize))
    return model


def _nothing_more(_plan: FinetunePlan, _model: nn.Module) -> dict[str, Any]:
    return {}


def _lora(plan: FinetunePlan, model: nn.Module) -> dict[str, Any]:
    on_meta = next(model.parameters()).is_meta
    _require_tokens(plan, model)
    own = {"eva_config": EvaConfig(rho=1.0)} if plan.init_lora_weights == "eva" and not on_meta else {}
    return {
        # Each module keeps its rank: EVA's own choice of ranks is known only once the data has been read.
        **own,
        "target_parameters": [*plan.target_parameters] or None,
        "trainable_token_indices": [*plan.trainable_token_indices] or None,
        # PiSSA and OLoRA decompose the weights, which do not exist on meta; the tensors are the same.
        "init_lora_weights": INITS["default" if on_meta else plan.init_lora_weights].peft,
        "rank_pattern": _pattern(plan.rank_pattern, "rank_pattern", model),
        "alpha_pattern": _pattern(plan.alpha_pattern, "alpha_pattern", model),
    }


def _adalora(plan: FinetunePlan, _model: nn.Module) -> dict[str, Any]:
    # The steps of a run by epochs are known only once its data is; trainer/worker/loop/adalora.py then corrects them.
    return {"total_step": plan.max_steps if plan.max_steps > 0 else plan.tinit + plan.tfinal + 1}


def _ia3(_plan: FinetunePlan, model: nn.Module) -> dict[str, Any]:
    """Return where IA3's vectors go: on the inputs of feed-forward modules and on the outputs of the others."""
    names = FEEDFORWARD_MODULES.get(model.config.model_type, ())
    # A regular expression: names would have to be listed in target_modules too, and all-linear lists none.
    return {"feedforward_modules": rf".*({'|'.join(map(re.escape, names))})" if names else []}


_MORE: Mapping[str | None, Callable[[FinetunePlan, nn.Module], dict[str, Any]]] = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "IA3": _ia3,
}
"""What a plan's fields do not say alone, by PEFT's type."""


def _has_conv1d(model: nn.Module) -> bool:
    """Return whether linear layers store their weights transposed, as in GPT-2; left to detect it, PEFT would warn."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _require_transposing(adapter: Adapter, plan: FinetunePlan) -> None:
    """Refuse an adapter that PEFT puts on no transposed layers."""
    if not adapter.transposes:
        able = [name for name, one in METHODS.items() if one.adapter is None or _fits_transposed(one.adapter)]
        rule = "cannot be put on the model's layers, which store their weights transposed (Conv1D), as GPT-2's"
        raise PlanError("method", rule, plan.method, f"Choose one of {', '.join(able)}")


def _fits_transposed(adapter: Adapter) -> bool:
    return adapter.transposes or adapter.on != "linear"


def _where(adapter: Adapter, plan: FinetunePlan, model: nn.Module) -> dict[str, Any]:
    """Return which modules get an adapter, always by name: what PEFT takes ``all-linear`` for depends on the model.

    Raises:
        PlanError: If the model lacks a target, or no adapter can be put there.
    """
    if not adapter.on:
        return {}
    if adapter.on == "norms":
        return {"target_modules": norms(model)}
    transposed: dict[str, Any] = {}
    if _has_conv1d(model):
        _require_transposing(adapter, plan)
        transposed = {"fan_in_fan_out": True}
    known = layers(model)
    targets = known.resolved(plan)
    if plan.layers_to_transform and adapter.picks_layers:
        transposed |= {"layers_to_transform": [*plan.layers_to_transform], "layers_pattern": [*known.layer_lists]}
    if not targets.excluded or adapter.excludes:
        return {"target_modules": [*targets.modules], **_excluded(targets.excluded)} | transposed
    return {"target_modules": targets.expression} | transposed


def _excluded(expression: str) -> dict[str, str]:
    return {"exclude_modules": expression} if expression else {}


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
