"""What a tape depends on, and nothing else: two plans with one recipe share one tape."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from estimator.conditions import Conditions
from estimator.kernels import kernel_choice
from specs import METHODS, FinetunePlan, GpuSpec, ModelSpec

# The plan fields that decide which tensors a step makes. All others leave the tape as it is, or the replay varies them.
_TRACED = (
    "method",
    "target_modules",
    "bias",
    "use_dora",
    "lora_dropout",
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
    "dtype",
    "bf16",
    "adapter_dtype",
    "prepare_kbit",
    "loss",
    "attn_implementation",
    "gradient_checkpointing",
    "use_reentrant",
)
_ADAPTER_ONLY = ("target_modules", "bias", "use_dora", "lora_dropout", "adapter_dtype")
# What a config.json says besides the architecture; dropped, so that copies of one model share their tapes.
_NOT_ARCHITECTURE = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate")
"""What the tensors of a step depend on besides the recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One tape to trace: the architecture, the choices that shape the step, and the regime of sizes."""

    config_json: str
    """The model's configuration as canonical JSON."""
    plan: FinetunePlan
    """A plan with everything that does not matter at its default."""
    conditions: Conditions
    """With kernel and padding decided."""
    single: bool
    """Whether the batch is one sequence: views of size 1 save copies."""
    beyond_window: bool
    """Whether sequences are longer than the sliding window, so that its layers need a mask."""

    @property
    def key(self) -> str:
        """A name for the tape's file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Return the recipe as canonical JSON."""
        values = {
            "config": json.loads(self.config_json),
            "method": self.plan.method,
            "plan": _said(self.plan, FinetunePlan.for_method(self.plan.method, "traced"), _TRACED),
            "conditions": _said(
                self.conditions, Conditions(), [entry.name for entry in dataclasses.fields(Conditions)]
            ),
            "single": self.single,
            "beyond_window": self.beyond_window,
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe back."""
        values = json.loads(text)
        return cls(
            config_json=json.dumps(values["config"], sort_keys=True, separators=(",", ":")),
            plan=FinetunePlan.from_dict(
                {**FinetunePlan.for_method(values["method"], "traced").to_dict(), **values["plan"]}
            ),
            conditions=Conditions(**values["conditions"]),
            single=values["single"],
            beyond_window=values["beyond_window"],
        )


def recipe(model: ModelSpec, plan: FinetunePlan, conditions: Conditions, gpu: GpuSpec | None = None) -> Recipe:
    """Return the recipe of the tape that prices a plan for a model.

    Args:
        model: The base model.
        plan: The plan to price.
        conditions: The loop around the step; ``auto`` entries are decided here.
        gpu: The card that chooses the attention kernel; None for one that has every kernel.
    """
    masked = conditions.padding == "mask" or (conditions.padding == "auto" and is_masked(plan))
    window = sliding_window(model.config)
    kernel = conditions.attention_kernel
    if kernel == "auto":
        on_cpu = gpu is not None and gpu.is_cpu and plan.attn_implementation != "eager"
        kernel = "cpu" if on_cpu else kernel_choice(model, plan, gpu, masked=masked).tape_kernel
    # The package flash-attn knows windows itself; all others need a mask for them.
    windowed = plan.attn_implementation != "flash_attention_2" and conditions.attention_kernel != "flash"
    batch, length = batch_shape(plan)
    beyond = windowed and window is not None and length >= window
    decided = dataclasses.replace(
        conditions, attention_kernel=kernel, padding="mask" if masked else "none", bnb_forward="auto"
    )
    return Recipe(
        config_json=_architecture(model.config),
        plan=_canonical(plan, eager=kernel == "eager"),
        conditions=decided,
        single=batch == 1,
        beyond_window=beyond,
    )


def is_masked(plan: FinetunePlan) -> bool:
    """Return whether attention needs a mask; the package flash-attn takes padded and packed rows apart itself."""
    if plan.attn_implementation == "flash_attention_2":
        return False
    return plan.packing or plan.per_device_train_batch_size > 1


def batch_shape(plan: FinetunePlan) -> tuple[int, int]:
    """Return the rows of one forward pass, and the tokens of each.

    Packed rows are joined to one: trl/trainer/sft_trainer.py, DataCollatorForLanguageModeling with ``padding_free``.
    """
    if plan.packing:
        return 1, plan.per_device_train_batch_size * plan.max_length
    return plan.per_device_train_batch_size, plan.max_length


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """Return the length from which some layers see a window only, in tokens; None if all see everything."""
    window = config.get("sliding_window") or config.get("attention_chunk_size")
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return None
    return window


def _architecture(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in _NOT_ARCHITECTURE}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _said(chosen: Any, default: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields that differ from their default, so that a new field leaves the names of old tapes alone."""
    values = {name: getattr(chosen, name) for name in names if getattr(chosen, name) != getattr(default, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _canonical(plan: FinetunePlan, *, eager: bool) -> FinetunePlan:
    """Return a plan that keeps only what shapes the step; 16-bit dtypes count alike where no two of them meet."""
    method = "full"
    if METHODS[plan.method].trains_adapter:
        method = {"4bit": "qlora", "8bit": "lora-8bit"}.get(plan.quantization, "dora" if plan.use_dora else "lora")
    values = {name: getattr(plan, name) for name in _TRACED if name != "method"}
    values["lora_dropout"] = 0.05 if plan.lora_dropout else 0.0
    values["attn_implementation"] = "eager" if eager else "sdpa"
    values["bf16"] = plan.autocast_dtype is not None
    dropped = [] if method != "full" else list(_ADAPTER_ONLY)
    dropped += [] if plan.gradient_checkpointing else ["use_reentrant"]
    dropped += [] if plan.load_in_4bit else ["bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"]
    halves = {plan.dtype, plan.autocast_dtype, None if method == "full" else plan.adapter_dtype} - {None, "float32"}
    if halves == {"float16"}:
        for name in ("dtype", "adapter_dtype"):
            values[name] = "bfloat16" if values[name] == "float16" else values[name]
    for name in dropped:
        del values[name]
    return FinetunePlan.for_method(method, "traced", **values)
