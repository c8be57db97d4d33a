"""PEFT's part of an export: the adapter's configuration, and the trainer that AdaLoRA needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advisor.export.job import Job, call_text, targets
from specs import METHODS, PlanError

_CONFIGS: Mapping[str | None, str] = {
    "LORA": "LoraConfig",
    "ADALORA": "AdaLoraConfig",
    "IA3": "IA3Config",
    "PROMPT_TUNING": "PromptTuningConfig",
    "PREFIX_TUNING": "PrefixTuningConfig",
}

_FEEDFORWARD = "TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING"

ADALORA = '''

class RankBudget(TrainerCallback):
    """Lets AdaLoRA prune ranks after each step."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.peft_config["default"].total_step = state.max_steps

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step + 1)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.peft_config["default"].rank_pattern = None


class AdaLoraTrainer(SFTTrainer):
    """Adds AdaLoRA's regularization to TRL's chunked loss, and saves pruned ranks as zeros."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        added = self.orthogonality() if model.training else 0.0
        return added + super().compute_loss(model, inputs, *args, **kwargs)

    def orthogonality(self):
        found = [w for name, w in self.model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
        products = [w @ w.T if len(w) < len(w.T) else w.T @ w for w in found]
        norms = torch.stack([torch.linalg.matrix_norm(p - torch.eye(len(p)).to(p)) for p in products])
        weight = self.model.peft_config["default"].orth_reg_weight
        return weight * norms.mean() / self.current_gradient_accumulation_steps

    def save_model(self, *args, **kwargs):
        config = self.model.peft_config["default"]
        pattern, config.rank_pattern = config.rank_pattern, None
        super().save_model(*args, **kwargs)
        config.rank_pattern = pattern
'''
"""The trainer that AdaLoRA needs, as classes of the exported script."""


def imported(job: Job) -> tuple[str, ...]:
    """Return the lines that import the names in ``config_text``."""
    if not job.has_adapter:
        return ()
    lines = [f"from peft import {_CONFIGS[_type(job)]}"]
    if _type(job) == "IA3":
        lines.append(f"from peft.utils.constants import {_FEEDFORWARD}")
    return tuple(lines)


def config_text(job: Job, *, model_type: str) -> str:
    """Return the lines that define PEFT's configuration, ``peft_config``.

    Args:
        job: What to export.
        model_type: The expression for the model's type, on which IA3's feed-forward modules depend.
    """
    values = {**_VALUES[_type(job)](job), "task_type": job.plan.task_type}
    text = f"peft_config = {call_text(_CONFIGS[_type(job)], values)}"
    if _type(job) != "IA3":
        return text
    # An expression, since PEFT accepts plain names only if they are also in target_modules.
    inside = f'inside = "|".join({_FEEDFORWARD}.get({model_type}, ()))\n'
    return inside + text.removesuffix(")") + '    feedforward_modules=f".*({inside})" if inside else [],\n)'


def wrapping_lines(job: Job, *, before: Sequence[str] = ()) -> list[str]:
    """Return the lines that freeze, checkpoint and wrap the model; empty where there is nothing to do.

    Args:
        job: What to export.
        before: Lines that change ``peft_config`` before the model is wrapped.
    """
    plan, lines = job.plan, list[str]()
    if plan.load_in_4bit:
        lines += [
            "for module in model.modules():",
            '    if hasattr(module, "support_avx512bf16_for_cpu"):',
            "        # Else bitsandbytes repacks 4-bit weights on a CPU in an evaluation, and no gradient passes then.",
            "        module.support_avx512bf16_for_cpu = False",
        ]
    if plan.prepare_kbit:
        lines.append("model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)")
    elif job.has_adapter:
        lines.append("model.requires_grad_(False)")
    if plan.gradient_checkpointing:
        kwargs = {"use_reentrant": plan.use_reentrant}
        more = "".join(f", {name}={value}" for name, value in job.recomputing.items())
        lines.append(f"model.activation_checkpointing_enable(activation_checkpointing_kwargs={kwargs}{more})")
        lines += ["model.enable_input_require_grads()"] if job.has_adapter else []
    if job.has_adapter:
        lines += [
            config_text(job, model_type="model.config.model_type"),
            *before,
            "model = get_peft_model(model, peft_config, autocast_adapter_dtype=False)",
            "for name, weight in model.named_parameters():",
            '    if weight.requires_grad and "lora_magnitude_vector" not in name:',
            f"        weight.data = weight.data.to(torch.{plan.adapter_dtype})",
        ]
    return lines


def require_lora(job: Job, tool: str) -> None:
    """Refuse a plan that another tool cannot express.

    Raises:
        PlanError: If the plan's adapter is not a LoRA, or its ranks differ by module.
    """
    way_out = "Export the Python script"
    if job.has_adapter and _type(job) != "LORA":
        raise PlanError("method", f"{tool} trains only LoRA and whole models", job.plan.method, way_out)
    if job.has_adapter and job.targets[1]:
        rule = f"must name no module that text does not reach, and {tool} cannot leave any out"
        raise PlanError("target_modules", rule, job.plan.target_modules, way_out)
    for field in ("rank_pattern", "alpha_pattern"):
        if job.has_adapter and getattr(job.plan, field):
            raise PlanError(field, f"{tool} gives all modules one rank and scale", getattr(job.plan, field), way_out)


def _where(job: Job) -> dict[str, Any]:
    _, excluded = job.targets
    return {"target_modules": targets(job), **({"exclude_modules": excluded} if excluded else {})}


def _type(job: Job) -> str | None:
    return METHODS[job.plan.method].peft_type


def _shared(job: Job) -> dict[str, Any]:
    plan = job.plan
    conv1d = {"fan_in_fan_out": True} if job.uses_conv1d else {}
    return {
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        **_where(job),
        "bias": plan.bias,
        **conv1d,
    }


def _lora(job: Job) -> dict[str, Any]:
    plan = job.plan
    values = {"r": plan.r, **_shared(job), "use_rslora": plan.use_rslora, "use_dora": plan.use_dora}
    if plan.target_parameters:
        values["target_parameters"] = [*plan.target_parameters]
    if plan.init_lora_weights != "default":
        values["init_lora_weights"] = plan.init_lora_weights
    return values | {name: dict(found) for name in ("rank_pattern", "alpha_pattern") if (found := getattr(plan, name))}


def _adalora(job: Job) -> dict[str, Any]:
    names = ("init_r", "target_r", "tinit", "tfinal", "deltaT")
    values = {name: getattr(job.plan, name) for name in names}
    # For a run that counts epochs, the callback sets the steps.
    steps = job.plan.max_steps if job.plan.max_steps > 0 else job.plan.tinit + job.plan.tfinal + 1
    return {**values, "total_step": steps, **_shared(job)}


def _ia3(job: Job) -> dict[str, Any]:
    return _where(job) | ({"fan_in_fan_out": True} if job.uses_conv1d else {})


def _prompt_tuning(job: Job) -> dict[str, Any]:
    return {
        "num_virtual_tokens": job.plan.num_virtual_tokens,
        "prompt_tuning_init": job.plan.prompt_tuning_init,
    }


def _prefix_tuning(job: Job) -> dict[str, Any]:
    return {"num_virtual_tokens": job.plan.num_virtual_tokens, "init_weights": "zero"}


_VALUES: Mapping[str | None, Callable[[Job], dict[str, Any]]] = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "IA3": _ia3,
    "PROMPT_TUNING": _prompt_tuning,
    "PREFIX_TUNING": _prefix_tuning,
}
