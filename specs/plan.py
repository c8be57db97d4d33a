"""The plan: every choice of a run, under the names that PEFT, TRL, transformers and bitsandbytes give them."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from specs.errors import PlanError
from specs.methods import METHODS, Method, Quantization

Dtype = Literal["float32", "bfloat16", "float16"]
QuantType = Literal["nf4", "fp4"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Loss = Literal["full", "chunked", "fused"]
Bias = Literal["none", "all", "lora_only"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "lion_32bit",
    "lion_8bit",
    "sgd",
]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
TargetModules = Literal["all-linear"] | tuple[str, ...]

_RANGES: Mapping[str, tuple[float, float]] = {
    "r": (1, 4096),
    "lora_alpha": (1, 65_536),
    "lora_dropout": (0, 0.9),
    "loraplus_lr_ratio": (1, 1024),
    "per_device_train_batch_size": (1, 65_536),
    "gradient_accumulation_steps": (1, 65_536),
    "max_length": (8, 16_777_216),
    "learning_rate": (1e-8, 1),
    "warmup_steps": (0, 1_000_000),
    "weight_decay": (0, 1),
    "max_grad_norm": (0, 1000),
    "num_train_epochs": (0.001, 10_000),
    "max_steps": (-1, 100_000_000),
    "logging_steps": (1, 1_000_000),
    "save_steps": (1, 100_000_000),
    "eval_split": (0, 0.5),
    "seed": (0, 2**32 - 1),
    "num_gpus": (1, 100_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan:
    """Every choice of one fine-tuning run. The advisor proposes it, the estimator prices it, the trainer runs it."""

    model_name_or_path: str
    """Catalog name, Hub id, or folder of the base model."""
    method: str
    """A name from ``specs.METHODS``."""

    r: int = 16
    """Rank of the adapter; ignored by methods without one."""
    lora_alpha: int = 32
    """Adapter scale: the update is multiplied by alpha / r, or by alpha / sqrt(r) under ``use_rslora``."""
    lora_dropout: float = 0.0
    """Share of adapter inputs dropped in training."""
    target_modules: TargetModules = "all-linear"
    """Last names of the modules with an adapter, or ``all-linear``: every linear layer but the output head."""
    bias: Bias = "none"
    """Which biases are trained besides the adapter."""
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Literal["default", "pissa", "gaussian"] = "default"
    """How A and B start; ``default`` is PEFT's ``True``: Kaiming-uniform A, zero B."""
    loraplus_lr_ratio: float | None = None
    """LoRA+: learning rate of B over that of A; None trains both alike."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: QuantType = "nf4"
    bnb_4bit_use_double_quant: bool = True
    """Whether the quantization constants are quantized too: 0.516 instead of 0.5625 bytes a weight."""
    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"
    """The dtype that packs the 4-bit weights; FSDP needs the one of the other weights."""

    dtype: Dtype = "bfloat16"
    """The base model's weights that are not quantized, and the dtype that 4-bit layers compute in."""
    bf16: bool = False
    """Autocast to bfloat16 (mixed precision), transformers' ``bf16``."""
    fp16: bool = False
    """Autocast to float16 with loss scaling, transformers' ``fp16``."""
    adapter_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The adapter's weights, gradients and optimizer states."""
    prepare_kbit: bool = False
    """Whether PEFT's ``prepare_model_for_kbit_training`` raises what is not quantized to 32 bit."""

    per_device_train_batch_size: int = 1
    """Sequences of one forward pass on one device."""
    gradient_accumulation_steps: int = 1
    """Forward and backward passes of one optimizer step."""
    max_length: int = 1024
    """Longest sequence in tokens; longer ones are cut."""
    packing: bool = False
    """Whether short examples are joined to sequences of ``max_length``."""
    completion_only_loss: bool = True
    """Whether the prompt's tokens are left out of the loss."""
    loss: Loss = "chunked"
    """``full``: logits of all positions; ``chunked``: TRL's default; ``fused``: Liger's kernel."""
    attn_implementation: Attention = "sdpa"
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass instead of kept."""
    use_reentrant: bool = False
    """Which of PyTorch's two checkpointing implementations is used."""

    optim: Optimizer = "adamw_torch_fused"
    learning_rate: float = 2e-4
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: float = 0.03
    """Steps of linear warm-up; under 1 a share of all steps."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 1.0
    max_steps: int = -1
    """Optimizer steps in all; -1 lets ``num_train_epochs`` decide."""
    logging_steps: int = 1
    save_steps: int = 100
    eval_split: float = 0.0
    """Share of the data held out for evaluation; 0 evaluates nothing."""
    seed: int = 42

    num_gpus: int = 1
    sharding: Sharding = "none"
    """How several devices share the work."""

    def __post_init__(self) -> None:
        """Refuse values out of range and choices that contradict each other."""
        _check_types(self)
        _check_ranges(self)
        _check_method(self)
        _check_contradictions(self)

    @property
    def effective_batch_size(self) -> int:
        """Sequences of one optimizer step over all devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.num_gpus

    @property
    def autocast_dtype(self) -> Dtype | None:
        """The dtype of mixed precision, or None without it."""
        if self.bf16:
            return "bfloat16"
        return "float16" if self.fp16 else None

    @property
    def compute_dtype(self) -> Dtype:
        """The dtype that matrix products run in."""
        return self.autocast_dtype or self.dtype

    @property
    def quantization(self) -> Quantization:
        """What bitsandbytes does to the base model."""
        if self.load_in_4bit:
            return "4bit"
        return "8bit" if self.load_in_8bit else "none"

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain JSON values."""
        values = dataclasses.asdict(self)
        if self.target_modules != "all-linear":
            values["target_modules"] = list(self.target_modules)
        return values

    def to_json(self) -> str:
        """Return the plan as indented JSON, which ``from_json`` reads back to an equal plan."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a plan from plain JSON values.

        Raises:
            PlanError: If a field is unknown, missing, of the wrong kind, out of range, or contradicts another.
        """
        if not isinstance(values, Mapping):
            raise PlanError("plan", "must be a JSON object", type(values).__name__)
        known = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise PlanError(f"plan: {unknown[0]}", "is not a field of a plan", None, "Remove it or correct its name")
        missing = [name for name in ("model_name_or_path", "method") if name not in values]
        if missing:
            raise PlanError(f"plan: {missing[0]}", "is missing", None, "Add it")
        kept = dict(values)
        if isinstance(kept.get("target_modules"), list):
            kept["target_modules"] = tuple(kept["target_modules"])
        return cls(**kept)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build a plan from the JSON text of a plan file.

        Raises:
            PlanError: If the text is not JSON or the plan is refused.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError("plan", "must be valid JSON", None, "Export it again") from error
        return cls.from_dict(values)

    @classmethod
    def for_method(cls, method: str, model_name_or_path: str, **values: Any) -> Self:
        """Return a plan of a method with what the method fixes filled in.

        Raises:
            PlanError: If the method is unknown or a value contradicts it.
        """
        entry = _method(method)
        return cls(model_name_or_path=model_name_or_path, method=method, **{**entry.preset, **values})

    def with_method(self, method: str) -> Self:
        """Return this plan under another method: the old one's preset is undone, the new one's filled in."""
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        undone = {name: defaults[name] for name in _method(self.method).preset}
        return dataclasses.replace(self, method=method, **{**undone, **_method(method).preset})


def _method(name: str) -> Method:
    """Return a method of the table, or refuse with the names there are."""
    if name not in METHODS:
        raise PlanError("method", f"must be one of {', '.join(METHODS)}", name)
    return METHODS[name]


def _fits(value: object, annotation: Any) -> bool:
    """Return whether a value is of an annotated kind; numbers are finite, and a bool is no number."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(annotation))
    if origin in {typing.Union, types.UnionType}:
        return any(_fits(value, option) for option in typing.get_args(annotation))
    if origin is tuple:
        return isinstance(value, tuple) and bool(value) and all(isinstance(name, str) and name for name in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _kind(annotation: Any) -> str:
    """Return how to say an annotation in a sentence."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return ", ".join(str(choice) for choice in typing.get_args(annotation))
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_kind(option) for option in typing.get_args(annotation))
    return _KINDS.get(origin or annotation, "empty")


_KINDS: Mapping[Any, str] = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    tuple: "a list of names",
}


def _check_types(plan: FinetunePlan) -> None:
    for name, annotation in _ANNOTATIONS.items():
        value = getattr(plan, name)
        if not _fits(value, annotation):
            raise PlanError(name, f"must be {_kind(annotation)}", value)


def _check_ranges(plan: FinetunePlan) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(plan, name)
        if value is not None and not least <= value <= most:
            raise PlanError(name, f"must lie between {least:,} and {most:,}", value)
    if plan.max_steps == 0:
        raise PlanError("max_steps", "must be at least 1, or -1 to let num_train_epochs decide", 0)
    if not plan.model_name_or_path.strip():
        raise PlanError("model_name_or_path", "must name a model", plan.model_name_or_path)


def _check_method(plan: FinetunePlan) -> None:
    method = _method(plan.method)
    for name, needed in method.preset.items():
        if getattr(plan, name) != needed:
            raise PlanError(
                name, f"is {needed} under method {method.name}", getattr(plan, name), "Choose another method"
            )
    if plan.quantization != method.quantization:
        raise PlanError(
            f"load_in_{plan.quantization}" if plan.quantization != "none" else "method",
            f"method {method.name} keeps the base model in {method.quantization.replace('none', '16 or 32 bit')}",
            plan.quantization,
            "Choose qlora for 4 bit or lora-8bit for 8 bit",
        )
    if not method.trains_adapter and (plan.use_dora or plan.use_rslora or plan.loraplus_lr_ratio):
        raise PlanError("method", "full fine-tuning has no adapter to apply DoRA, rsLoRA or LoRA+ to", plan.method)


def _check_contradictions(plan: FinetunePlan) -> None:
    rules = (
        (plan.load_in_4bit and plan.load_in_8bit, "load_in_8bit", "a model is loaded in 4 or in 8 bit, not both"),
        (plan.bf16 and plan.fp16, "fp16", "mixed precision is bf16 or fp16, not both"),
        (
            plan.prepare_kbit and plan.quantization == "none",
            "prepare_kbit",
            "concerns quantized base models only",
        ),
        (
            plan.fp16 and plan.method == "full" and plan.dtype == "float16",
            "fp16",
            "loss scaling cannot update weights that are float16 themselves: load them in float32",
        ),
        (
            plan.num_gpus == 1 and plan.sharding != "none",
            "sharding",
            "needs more than one GPU",
        ),
        (
            plan.num_gpus > 1 and plan.sharding == "none",
            "sharding",
            "several GPUs need ddp, zero1, zero2, zero3 or fsdp",
        ),
    )
    for broken, subject, rule in rules:
        if broken:
            raise PlanError(subject, rule, getattr(plan, subject))


_ANNOTATIONS: Mapping[str, Any] = typing.get_type_hints(FinetunePlan)
