"""What a tape depends on, and nothing else: two plans with the same recipe share a tape."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from estimator.tape.chunks import is_aligned, recurrent_kernels
from estimator.tape.conditions import Conditions
from estimator.tape.kernels import kernel_choice
from specs import METHODS, TASK_TYPES, FinetunePlan, GpuSpec, ModelSpec
from specs.embeddings import KEY, embedding_of
from specs.stored import EXPANDED, require_stored, stored_in
from specs.tasks import require_trained_for

# The plan fields that decide which tensors a step creates. All others do not affect the tape, or are set in the replay.
_TRACED = (
    "method",
    "task_type",
    "num_labels",
    "pooling_mode",
    "embedding_loss",
    "num_negatives",
    "target_modules",
    "target_parameters",
    "layers_to_transform",
    "modules_to_save",
    "trainable_token_indices",
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
    "every_n_layers",
    "activation_offloading",
    "r",
    "rank_pattern",
    "init_r",
    "target_r",
    "oft_block_size",
    "decompose_factor",
    "num_virtual_tokens",
)
# Fields of a config.json that do not belong to the architecture; dropped so that copies of one model share their tapes.
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
    """The conditions, with kernel and padding decided."""
    single: bool
    """Whether the batch is one sequence: views of size 1 save copies."""
    beyond_window: bool
    """Whether sequences are longer than the sliding window, so that layers with a window need a mask."""
    aligned: bool = False
    """Whether sequences fill the last chunk of recurrent layers: what is padded is also cut off again, in a copy."""

    @property
    def key(self) -> str:
        """A name for the tape's file."""
        return _key(self)

    def to_json(self) -> str:
        """Return the recipe as canonical JSON."""
        usual, chosen = FinetunePlan.for_method(self.plan.method, "traced"), self.plan.to_dict()
        values = {
            "config": json.loads(self.config_json),
            "method": self.plan.method,
            "plan": _non_default({name: chosen[name] for name in _TRACED}, usual.to_dict()),
            "conditions": _non_default(dataclasses.asdict(self.conditions), dataclasses.asdict(Conditions())),
            "single": self.single,
            "beyond_window": self.beyond_window,
            **({"aligned": True} if self.aligned else {}),
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
            aligned=values.get("aligned", False),
        )


@lru_cache(maxsize=4096)
def _key(wanted: Recipe) -> str:
    return hashlib.sha256(wanted.to_json().encode()).hexdigest()[:32]


def recipe(model: ModelSpec, plan: FinetunePlan, conditions: Conditions, gpu: GpuSpec | None = None) -> Recipe:
    """Return the recipe of the tape that prices a plan for a model.

    Args:
        model: The base model.
        plan: The plan to price.
        conditions: The conditions of the step; ``auto`` values are decided here.
        gpu: The card, which decides the attention kernel; None for a card with all kernels.

    Raises:
        PlanError: If the model's weights are stored so that the plan cannot train them.
        SpecError: If the model is trained for other tasks.
    """
    require_stored(plan, model.config)
    require_trained_for(model.name, model.task_types, plan.task_type)
    masked = conditions.padding == "mask" or (conditions.padding == "auto" and is_masked(plan))
    window = sliding_window(model.text_config)
    kernel = conditions.attention_kernel
    if kernel == "auto":
        on_cpu = gpu is not None and gpu.is_cpu and plan.attn_implementation != "eager"
        kernel = "cpu" if on_cpu else kernel_choice(model, plan, gpu, masked=masked).tape_kernel
    # The flash-attn package handles windows itself; all other kernels need a mask for them.
    windowed = plan.attn_implementation != "flash_attention_2" and conditions.attention_kernel != "flash"
    batch, length = batch_shape(plan)
    beyond = windowed and window is not None and length >= window
    decided = dataclasses.replace(
        conditions, attention_kernel=kernel, padding="mask" if masked else "none", bnb_forward="auto"
    )
    if plan.autocast_dtype is None:
        decided = dataclasses.replace(decided, outputs_unconverted=False)  # nothing is converted
    if conditions.recurrent_kernels == "auto":
        decided = dataclasses.replace(decided, recurrent_kernels=recurrent_kernels(model.config, gpu))
    return Recipe(
        config_json=_architecture(_as_trained(_as_loaded(model.config), plan)),
        plan=_canonical(_named(plan, model), eager=kernel == "eager", on_cpu=gpu is not None and gpu.is_cpu),
        conditions=decided,
        single=batch == 1,
        beyond_window=beyond,
        aligned=is_aligned(model.config, length),
    )


def is_masked(plan: FinetunePlan) -> bool:
    """Return whether attention needs a mask; the flash-attn package separates padded and packed rows itself."""
    if plan.attn_implementation == "flash_attention_2":
        return False
    # After a prefix there are more keys than queries, which ``is_causal`` without a mask tensor cannot express;
    # transformers/masking_utils.py, _ignore_causal_mask_sdpa.
    return plan.packing or plan.per_device_train_batch_size > 1 or plan.method == "prefix-tuning"


def batch_shape(plan: FinetunePlan) -> tuple[int, int]:
    """Return the rows of one forward pass and the tokens of each, including the virtual ones of prompt tuning.

    Packed rows are joined into one: trl/trainer/sft_trainer.py, DataCollatorForLanguageModeling with ``padding_free``.
    """
    if plan.packing:
        return 1, plan.per_device_train_batch_size * plan.max_length
    return plan.per_device_train_batch_size, plan.max_length + added_tokens(plan)


def added_tokens(plan: FinetunePlan) -> int:
    """Return the virtual tokens in every sequence; those of a prefix are in the KV cache instead."""
    return plan.num_virtual_tokens if plan.method == "prompt-tuning" else 0


def differs_by_layer(plan: FinetunePlan) -> bool:
    """Return whether layers of an adapter differ, so that a few of them cannot stand for all.

    An expression may name single layers; the tensor of a prefix holds all layers; and with the model's own loss,
    AdaLoRA's regularization creates gradients of all layers at once.
    """
    by_place = any(not part.isidentifier() for name, _ in plan.rank_pattern for part in name.split("."))
    adapter = METHODS[plan.method].adapter
    unlike = adapter is not None and not adapter.repeats
    picked = bool(plan.layers_to_transform) and METHODS[plan.method].uses("layers_to_transform")
    return by_place or unlike or picked or (plan.method, plan.loss) == ("adalora", "full")


def has_own_rank(plan: FinetunePlan) -> bool:
    """Return whether a tape holds for the plan's rank alone, since sizes are not linear in it."""
    adapter = METHODS[plan.method].adapter
    return adapter is not None and not adapter.linear_in_rank


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """Return the length in tokens from which some layers see only a window; None if all layers see everything."""
    window = config.get("sliding_window") or config.get("attention_chunk_size")
    if window is None and isinstance(config.get("local_attention"), int):
        window = config["local_attention"] // 2  # ModernBERT's counts both sides
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return None
    return window


def _architecture(config: Mapping[str, Any]) -> str:
    return json.dumps(_shaping(config), sort_keys=True, separators=(",", ":"))


def _as_loaded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration without the format of a file whose weights are expanded while they are loaded."""
    if stored_in(config) not in EXPANDED:
        return config
    return {name: value for name, value in config.items() if name != "quantization_config"}


def _as_trained(config: Mapping[str, Any], plan: FinetunePlan) -> Mapping[str, Any]:
    """Return a configuration without how its model makes embeddings, where it is trained for something else.

    What stands before a text changes no tensor.
    """
    found = embedding_of(config)
    if found is None:
        return config
    kept = {name: value for name, value in config.items() if name != KEY}
    if not TASK_TYPES[plan.task_type].embeds or not (found.dense or found.normalizes):
        return kept
    return {**kept, KEY: dataclasses.replace(found, prompts={}, pooling_mode="", unknown=()).to_dict()}


def _shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what belongs to the architecture, also in the configurations of single towers."""
    kept = ((name, value) for name, value in config.items() if name not in _NOT_ARCHITECTURE)
    return {
        name: _shaping(value) if name.endswith("_config") and isinstance(value, Mapping) else value
        for name, value in kept
    }


def _non_default(chosen: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from their default, so that a new field does not change the names of old tapes."""
    return {name: value for name, value in chosen.items() if value != default[name]}


def _named(plan: FinetunePlan, model: ModelSpec) -> FinetunePlan:
    """Return a plan that names its targets in a mixture, as PEFT is given them: its own all-linear is another."""
    if model.layers is None or not model.layers.num_experts or not METHODS[plan.method].uses("target_modules"):
        return plan
    return dataclasses.replace(plan, target_modules=model.layers.resolved(plan).modules)


def _canonical(plan: FinetunePlan, *, eager: bool, on_cpu: bool) -> FinetunePlan:
    """Return a plan with only what shapes the step; float16 counts as bfloat16 unless both occur."""
    method = METHODS[plan.method]
    task = TASK_TYPES[plan.task_type]
    used = (name for name in _TRACED if name != "method" and method.uses(name) and task.uses(name))
    values = {name: getattr(plan, name) for name in used}
    # Of tokens it counts how many there are, not which.
    values |= {name: tuple(range(len(values[name]))) for name in ("trainable_token_indices",) if name in values}
    values["attn_implementation"] = "eager" if eager else "sdpa"
    values["bf16"] = plan.autocast_dtype is not None
    if plan.lora_dropout and "lora_dropout" in values:
        values["lora_dropout"] = 0.05
    if not has_own_rank(plan):
        values.pop("r", None)
    if "target_r" in values:
        values["target_r"] = 1  # pruned ranks are set to zero but keep their memory
    if not plan.gradient_checkpointing:
        del values["use_reentrant"], values["every_n_layers"]
    if not plan.gradient_checkpointing or on_cpu:
        del values["activation_offloading"]  # nothing is kept, or in RAM already
    if not plan.load_in_4bit:
        del values["bnb_4bit_use_double_quant"], values["bnb_4bit_quant_storage"]
    halves = {plan.dtype, plan.autocast_dtype, values.get("adapter_dtype")} - {None, "float32"}
    if halves == {"float16"}:
        values |= {name: "bfloat16" for name in ("dtype", "adapter_dtype") if values.get(name) == "float16"}
    return FinetunePlan.for_method(_traced_method(plan), "traced", **values)


def _traced_method(plan: FinetunePlan) -> str:
    """Return the method that stands for all methods with the same step."""
    if METHODS[plan.method].peft_type != "LORA":
        return plan.method
    return {"4bit": "qlora", "8bit": "lora-8bit"}.get(plan.quantization, "dora" if plan.use_dora else "lora")
