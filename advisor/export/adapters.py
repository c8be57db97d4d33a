"""PEFT's part of an export: the adapter's configuration, and the trainer that AdaLoRA needs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from advisor.export.job import Job, call_text, literal, targets
from specs import METHODS, PlanError
from specs.adapters import INITS, Adapter

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
    adapter = METHODS[job.plan.method].adapter
    if adapter is None:
        return ()
    lines = [f"from peft import {adapter.config}"]
    if _type(job) == "IA3":
        lines.append(f"from peft.utils.constants import {_FEEDFORWARD}")
    return tuple(lines)


def require_own_init(job: Job) -> None:
    """Refuse a plan whose adapter begins as the data says: no export reads rows before the first step.

    Raises:
        PlanError: If it does.
    """
    plan = job.plan
    if METHODS[plan.method].uses("init_lora_weights") and INITS[plan.init_lora_weights].reads_rows:
        rule = "must not read the rows before the first step, as no exported file does"
        raise PlanError("init_lora_weights", rule, plan.init_lora_weights, "Choose default, or train it here")


def config_text(job: Job, *, model_type: str) -> str:
    """Return the lines that define PEFT's configuration, ``peft_config``.

    Args:
        job: What to export.
        model_type: The expression for the model's type, on which IA3's feed-forward modules depend.
    """
    adapter = METHODS[job.plan.method].adapter
    if adapter is None:
        raise PlanError("method", "must train an adapter", job.plan.method)
    require_own_init(job)
    values = {name: getattr(job.plan, field) for name, field in adapter.arguments.items()}
    values |= {**adapter.constants, **_where(adapter, job), **_MORE.get(_type(job), _nothing_more)(job)}
    if adapter.on and job.plan.modules_to_save:
        values["modules_to_save"] = [*job.plan.modules_to_save]
    text = f"peft_config = {call_text(adapter.config, {**values, 'task_type': job.plan.task_type})}"
    if adapter.on == "norms":
        return _norms(job, of_model=model_type.startswith("model.")) + text[:-1] + "    target_modules=norms,\n)"
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
            f'    if weight.requires_grad and "lora_magnitude_vector" not in name{_but_copies(job)}:',
            f"        weight.data = weight.data.to(torch.{plan.adapter_dtype})",
            *_casts(job),
        ]
    return lines


def _but_copies(job: Job) -> str:
    """Return the condition that leaves out what keeps the base model's number format: its own weights, trained too."""
    named = [*job.plan.modules_to_save, *(["token_adapter"] if job.plan.trainable_token_indices else [])]
    return "".join(f" and {literal(f'.{name}.')} not in name" for name in named)


def _casts(job: Job) -> list[str]:
    """Return the lines that let weights in one dtype work with those in another, where PEFT casts nothing."""
    plan = job.plan
    if plan.autocast_dtype is not None or plan.dtype == plan.adapter_dtype:
        return []
    if _type(job) == "VERA":
        lines = ["for name, matrix in model.named_buffers():", '    if "vera_" in name:']
        return [*lines, f"        matrix.data = matrix.data.to(torch.{plan.adapter_dtype})"]
    if _type(job) == "LN_TUNING":
        lines = ["for module in model.modules():", '    if hasattr(module, "ln_tuning_layers"):']
        cast = "lambda module, inputs, output: output.to(inputs[0].dtype)"
        return [*lines, f"        module.register_forward_hook({cast})"]
    return []


def require_lora(job: Job, tool: str, also: Collection[str] = (), *, has: Collection[str] = ()) -> None:
    """Refuse a plan that another tool cannot express.

    Args:
        job: What to export.
        tool: What the tool is called.
        also: PEFT's types that it trains besides LoRA.
        has: Which of ``layers_to_transform``, ``modules_to_save`` and ``trainable_token_indices`` it has.

    Raises:
        PlanError: If the plan's adapter is not a LoRA, or its ranks differ by module.
    """
    require_own_init(job)
    way_out = "Export the Python script"
    if job.has_adapter and _type(job) not in {"LORA", *also}:
        raise PlanError(
            "method", f"{tool} trains only {', '.join(('LoRA', *also))} and whole models", job.plan.method, way_out
        )
    if job.has_adapter and job.targets[1]:
        rule = f"must name no module that text does not reach, and {tool} cannot leave any out"
        raise PlanError("target_modules", rule, job.plan.target_modules, way_out)
    _require_empty(job, tool, {"layers_to_transform", "modules_to_save", "trainable_token_indices"} - {*has})
    for field in ("rank_pattern", "alpha_pattern"):
        if job.has_adapter and getattr(job.plan, field):
            raise PlanError(field, f"{tool} gives all modules one rank and scale", getattr(job.plan, field), way_out)


def _require_empty(job: Job, tool: str, fields: Collection[str]) -> None:
    """Refuse a plan with values in fields that another tool has no word for.

    Raises:
        PlanError: If it has any.
    """
    for field in sorted(fields):
        if getattr(job.plan, field) and METHODS[job.plan.method].uses(field):
            rule = f"must be empty, since {tool} has no such setting"
            raise PlanError(field, rule, [*getattr(job.plan, field)], "Export the Python script")


def _where(adapter: Adapter, job: Job) -> dict[str, Any]:
    if adapter.on != "linear":
        return {}
    conv1d: dict[str, Any] = {"fan_in_fan_out": True} if adapter.transposes and job.uses_conv1d else {}
    if job.plan.layers_to_transform and adapter.picks_layers:
        conv1d["layers_to_transform"] = [*job.plan.layers_to_transform]
    _, excluded = job.targets
    if excluded and not adapter.excludes:
        return {"target_modules": job.target_expression, **conv1d}
    return {"target_modules": targets(job), **({"exclude_modules": excluded} if excluded else {}), **conv1d}


def _norms(job: Job, *, of_model: bool) -> str:
    """Return the lines that find a model's norms: in the model, or by the names that they have.

    Raises:
        PlanError: If the model has norms that text does not reach.
    """
    if job.layers is not None and any(layer.left_out == "tower" for layer in job.layers.linear):
        rule = "trains the norms that text reaches, which a script cannot tell from those of images and sound"
        raise PlanError("method", rule, job.plan.method, "Train it here, or choose lora")
    if not of_model:
        return 'norms = r".*(norm|Norm|ln_[a-z0-9]+)"  # check that your model has no others\n'
    found = [
        "norms = [",
        "    name",
        "    for name, module in model.named_modules()",
        '    if "norm" in type(module).__name__.lower() and list(module.parameters(recurse=False))',
        "]",
    ]
    return "\n".join([*found, ""])


def _type(job: Job) -> str | None:
    return METHODS[job.plan.method].peft_type


def _nothing_more(_job: Job) -> dict[str, Any]:
    return {}


def _lora(job: Job) -> dict[str, Any]:
    plan, values = job.plan, dict[str, Any]()
    if plan.target_parameters:
        values["target_parameters"] = [*plan.target_parameters]
    if plan.trainable_token_indices:
        values["trainable_token_indices"] = [*plan.trainable_token_indices]
    if plan.init_lora_weights != "default":
        values["init_lora_weights"] = plan.init_lora_weights
    return values | {name: dict(found) for name in ("rank_pattern", "alpha_pattern") if (found := getattr(plan, name))}


def _adalora(job: Job) -> dict[str, Any]:
    # For a run that counts epochs, the callback sets the steps.
    return {"total_step": job.plan.max_steps if job.plan.max_steps > 0 else job.plan.tinit + job.plan.tfinal + 1}


_MORE: Mapping[str | None, Callable[[Job], dict[str, Any]]] = {"LORA": _lora, "ADALORA": _adalora}
"""What a plan's fields do not say alone, by PEFT's type."""
