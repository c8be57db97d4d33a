"""The checks of a plan: wrong types, values out of range, contradictions; each error names the field."""

import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from specs.adapters import INITS
from specs.errors import PlanError
from specs.fields import LISTS, NUMBERS, PlanFields
from specs.methods import METHODS, Method
from specs.sharing import OFFLOADS
from specs.tasks import TASK_TYPES

MOST_LABELS = 1_000
"""Classes that a run may tell apart, as many as an examination of data counts."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "num_labels": (2, MOST_LABELS),
    "num_negatives": (0, 64),
    "scale": (0.1, 1_000),
    "r": (1, 4096),
    "lora_alpha": (1, 65_536),
    "lora_dropout": (0, 0.9),
    "loraplus_lr_ratio": (1, 1024),
    "init_r": (2, 4096),
    "target_r": (1, 4095),
    "tinit": (0, 1_000_000),
    "tfinal": (0, 1_000_000),
    "deltaT": (1, 1_000_000),
    "oft_block_size": (2, 4096),
    "decompose_factor": (1, 4096),
    "num_virtual_tokens": (1, 4096),
    "per_device_train_batch_size": (1, 65_536),
    "gradient_accumulation_steps": (1, 65_536),
    "every_n_layers": (1, 1_000),
    "torch_empty_cache_steps": (1, 1_000_000),
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
    "early_stopping_patience": (1, 10_000),
    "num_gpus": (1, 100_000),
}
_PATTERN_RANGES: Mapping[str, str] = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
"""For each pattern, the field whose range its numbers must be in."""

# PEFT 0.21, peft/tuners/lora/layer.py, ParamWrapper.__init__ and its pissa_init, which needs a linear layer's weight.
_WITH_EXPERTS: Mapping[str, Any] = {"lora_dropout": 0.0, "use_dora": False, "init_lora_weights": "default"}

_MAY_BE_EMPTY = frozenset(LISTS) - {"target_modules"}
_MOST_LISTED = 100_000

_NAME_PATTERN = re.compile(r"[\w.\\|()^$*+-]{1,200}")
_NAME = re.compile(r"[\w.-]{1,200}")
_QUANTIFIERS = re.compile(r"[*+]")


@dataclass(frozen=True, slots=True)
class TypeCheck:
    """What the values of one field must be."""

    holds: Callable[[object], bool]
    words: str


def type_checks(annotations: Mapping[str, Any]) -> Mapping[str, TypeCheck]:
    """Return what the values of annotated fields must be; made once, as pages make a hundred plans for a change."""
    return {name: TypeCheck(_test_of(name, one), _in_words(one)) for name, one in annotations.items()}


def check(plan: PlanFields, types_of: Mapping[str, TypeCheck]) -> None:
    """Refuse a plan that makes no sense.

    Args:
        plan: The plan.
        types_of: What ``type_checks`` returns of its fields.

    Raises:
        PlanError: Names the first field that has the wrong type, is out of range or contradicts another.
    """
    _check_types(plan, types_of)
    _check_ranges(plan)
    _check_patterns(plan)
    _check_method(plan)
    _check_task(plan)
    _check_contradictions(plan)


def known_method(name: object) -> Method:
    """Return a method by name, or refuse and list the names that exist."""
    if not isinstance(name, str) or name not in METHODS:
        raise PlanError("method", f"must be one of {', '.join(METHODS)}", name)
    return METHODS[name]


def _test_of(name: str, annotation: Any) -> Callable[[object], bool]:
    """Return what tells whether a field's value has its annotated type."""
    test = _test(annotation)
    return (lambda value: value == () or test(value)) if name in _MAY_BE_EMPTY else test


@functools.cache
def _test(annotation: Any) -> Callable[[object], bool]:
    """Return what tells whether a value has an annotated type; numbers must be finite, and a bool is not a number."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return lambda value: any(type(value) is type(choice) and value == choice for choice in parts)
    if origin in {typing.Union, types.UnionType}:
        options = tuple(map(_test, parts))
        return lambda value: any(option(value) for option in options)
    if origin is tuple:
        return lambda value: isinstance(value, tuple) and _has_members(value, parts[0])
    if annotation is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    return lambda value: isinstance(value, annotation)


def _has_members(values: tuple[Any, ...], member: Any) -> bool:
    """Return whether a tuple holds names, at least one, or numbers, or pairs of name and number."""
    if member is str:
        return bool(values) and all(isinstance(name, str) and name for name in values)
    if member is int:
        return all(map(_test(int), values))
    tests = tuple(map(_test, typing.get_args(member)))
    return all(
        isinstance(pair, tuple)
        and len(pair) == len(tests)
        and all(test(one) for test, one in zip(tests, pair, strict=True))
        for pair in values
    )


def _in_words(annotation: Any) -> str:
    """Return an annotation in words, for an error message."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return ", ".join(str(choice) for choice in typing.get_args(annotation))
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_in_words(option) for option in typing.get_args(annotation))
    if origin is tuple and typing.get_args(annotation)[0] is int:
        return "a list of whole numbers"
    if origin is tuple and typing.get_args(annotation)[0] is not str:
        return "a mapping of module names to whole numbers"
    return _WORDS_FOR_TYPES.get(origin or annotation, "empty")


_WORDS_FOR_TYPES: Mapping[Any, str] = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    tuple: "a list of names",
}


def _check_types(plan: PlanFields, types_of: Mapping[str, TypeCheck]) -> None:
    for name, one in types_of.items():
        if not one.holds(value := getattr(plan, name)):
            raise PlanError(name, f"must be {one.words}", value)


def _check_ranges(plan: PlanFields) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(plan, name)
        if value is not None and not least <= value <= most:
            raise PlanError(name, f"must lie between {least:,} and {most:,}", value)
    _check_lists(plan)
    if plan.max_steps == 0:
        raise PlanError("max_steps", "must be at least 1, or -1 to let num_train_epochs decide", 0)
    if not plan.model_name_or_path.strip():
        raise PlanError("model_name_or_path", "must name a model", plan.model_name_or_path)


def _check_lists(plan: PlanFields) -> None:
    for name in LISTS:
        if isinstance(listed := getattr(plan, name), tuple):
            _check_entries(name, listed)
    for name in NUMBERS:
        if min(getattr(plan, name), default=0) < 0:
            raise PlanError(name, "must be numbers from 0", min(getattr(plan, name)))
    both = {*plan.modules_to_save} & ({*plan.target_modules} if isinstance(plan.target_modules, tuple) else set())
    if both:
        rule = "must leave out what target_modules adapts: a module is trained whole or gets an adapter"
        raise PlanError("modules_to_save", rule, min(both), "Leave it out of one of them")


def _check_entries(field: str, listed: Sequence[Any]) -> None:
    """Refuse a list with an entry twice, or with a name that no module has."""
    if len(listed) > _MOST_LISTED:
        raise PlanError(field, f"must be at most {_MOST_LISTED:,} entries", len(listed), "Leave some out")
    if len({*listed}) < len(listed):
        twice = next(entry for entry in listed if listed.count(entry) > 1)
        raise PlanError(field, "must name each entry once", twice, "Leave one of them out")
    strange = next((entry for entry in listed if field == "modules_to_save" and not _NAME.fullmatch(entry)), None)
    if strange is not None:
        rule = "must be names as the model has them, of letters, digits, dots, dashes and underscores"
        raise PlanError(field, rule, strange, "Correct it, or leave it out")


def _check_patterns(plan: PlanFields) -> None:
    """Refuse numbers out of range, and expressions that are invalid or could take forever to match."""
    for field, ranged in _PATTERN_RANGES.items():
        least, most = _RANGES[ranged]
        for name, number in getattr(plan, field):
            if not least <= number <= most:
                raise PlanError(f"{field}: {name}", f"must lie between {least:,} and {most:,}", number)
            if not _is_quick_to_match(name):
                way_out = "Write a name such as q_proj, or layers\\.(0|1)\\..*q_proj"
                rule = "must be a module name, or an expression with at most two of * and +"
                raise PlanError(field, rule, name, way_out)


def _is_quick_to_match(name: str) -> bool:
    """Return whether a name is an expression that matches quickly: no repeated group, at most two quantifiers."""
    if not _NAME_PATTERN.fullmatch(name) or re.search(r"\)[*+]", name) or len(_QUANTIFIERS.findall(name)) > 2:
        return False
    try:
        re.compile(name)
    except re.error:
        return False
    return True


def _check_method(plan: PlanFields) -> None:
    method = known_method(plan.method)
    for name, needed in method.preset.items():
        if getattr(plan, name) != needed:
            raise PlanError(
                name, f"must be {needed} under method {method.name}", getattr(plan, name), "Choose another method"
            )
    if method.quantization is not None and plan.quantization != method.quantization:
        raise PlanError(
            f"load_in_{plan.quantization}" if plan.quantization != "none" else "method",
            f"method {method.name} keeps the base model in {method.quantization.replace('none', '16- or 32-bit')}",
            plan.quantization,
            "Choose qlora for 4-bit or lora-8bit for 8-bit",
        )
    reason = method.adapter.not_over.get(plan.quantization) if method.adapter else None
    if reason:
        rule = f"must be off under method {method.name}: {reason}"
        raise PlanError(f"load_in_{plan.quantization}", rule, None, "Choose load_in_8bit, or neither")
    if not method.uses("use_dora") and (plan.use_dora or plan.use_rslora or plan.loraplus_lr_ratio):
        raise PlanError("method", f"{method.label} has no LoRA adapter to apply DoRA, rsLoRA or LoRA+ to", plan.method)


def _check_task(plan: PlanFields) -> None:
    task, method = TASK_TYPES[plan.task_type], METHODS[plan.method]
    if method.peft_type not in task.peft_types:
        raise PlanError("method", f"{method.label} cannot train {task.label}", plan.method, "Choose lora or qlora")
    for name, needed in task.preset.items():
        if getattr(plan, name) != needed:
            raise PlanError(name, f"must be {needed} for {task.label} ({task.name})", getattr(plan, name))
    if task.uses("embedding_loss"):
        _check_embeddings(plan)
    if plan.layer_offloading:
        _check_offloaded_layers(plan)


def _check_offloaded_layers(plan: PlanFields) -> None:
    """Refuse layers in RAM that are not frozen in 4 bit, or not all on one device."""
    needed = {"load_in_4bit": True, "bnb_4bit_quant_storage": "uint8", "task_type": "CAUSAL_LM", "num_gpus": 1}
    for name, value in needed.items():
        if getattr(plan, name) != value:
            rule = f"streams frozen 4-bit layers and needs {name} {value}"
            raise PlanError("layer_offloading", rule, getattr(plan, name), "Switch it off, or choose qlora on one GPU")


def _check_embeddings(plan: PlanFields) -> None:
    """Refuse texts that the loss does not read."""
    if plan.embedding_loss == "CoSENTLoss" and plan.num_negatives:
        raise PlanError(
            "num_negatives", "must be 0 with CoSENTLoss, which reads two texts of a row", plan.num_negatives
        )


def _check_contradictions(plan: PlanFields) -> None:
    rules = (
        (
            plan.quantization != "none"
            and INITS[plan.init_lora_weights].changes_base
            and METHODS[plan.method].uses("init_lora_weights"),
            "init_lora_weights",
            "must be default, gaussian or eva over quantized weights, which it would split and round once more",
        ),
        (
            INITS[plan.init_lora_weights].reads_rows
            and METHODS[plan.method].uses("init_lora_weights")
            and (plan.num_gpus > 1 or plan.packing or plan.task_type != "CAUSAL_LM"),
            "init_lora_weights",
            "must be another than eva on several GPUs, with packing, and for tasks other than text generation",
        ),
        (plan.load_in_4bit and plan.load_in_8bit, "load_in_8bit", "a model is loaded in 4-bit or in 8-bit, not both"),
        (plan.bf16 and plan.fp16, "fp16", "mixed precision is bf16 or fp16, not both"),
        (
            plan.prepare_kbit and plan.quantization == "none",
            "prepare_kbit",
            "applies only to quantized base models",
        ),
        (
            plan.fp16 and plan.method == "full" and plan.dtype == "float16",
            "fp16",
            "loss scaling cannot update weights that are themselves float16: load them in float32",
        ),
        *(
            (
                bool(plan.target_parameters and getattr(plan, name) != needed and METHODS[plan.method].uses(name)),
                name,
                f"must be {needed} with target_parameters: PEFT cannot apply it to stacked experts",
            )
            for name, needed in _WITH_EXPERTS.items()
        ),
        (
            bool(plan.target_parameters) and not METHODS[plan.method].uses("target_parameters"),
            "target_parameters",
            f"must be empty under method {plan.method}: PEFT adapts stacked experts with LoRA only",
        ),
        (
            bool(plan.layers_to_transform and plan.target_parameters),
            "layers_to_transform",
            "must be empty with target_parameters: PEFT adapts the experts of all layers",
        ),
        (
            plan.method == "adalora" and plan.target_r >= plan.init_r,
            "target_r",
            f"must be less than init_r ({plan.init_r}), from which AdaLoRA prunes ranks",
        ),
        (
            plan.method == "adalora" and 0 < plan.max_steps <= plan.tinit + plan.tfinal,
            "max_steps",
            f"must be more than tinit + tfinal ({plan.tinit + plan.tfinal}): AdaLoRA prunes ranks in between",
        ),
        *(
            (
                bool(getattr(plan, name)) and not plan.eval_split,
                name,
                "needs evaluations to compare: set eval_split above 0",
            )
            for name in ("load_best_model_at_end", "early_stopping_patience")
        ),
        (
            plan.num_gpus == 1 and plan.sharding != "none",
            "sharding",
            "needs more than one GPU",
        ),
        (
            plan.num_gpus > 1 and plan.sharding == "none",
            "sharding",
            "must be ddp, zero1, zero2, zero3 or fsdp on several GPUs",
        ),
        (
            plan.offload not in OFFLOADS.get(plan.sharding, ("none",)),
            "offload",
            f"must be {' or '.join(OFFLOADS.get(plan.sharding, ('none',)))} with sharding {plan.sharding}",
        ),
    )
    for broken, subject, rule in rules:
        if broken:
            raise PlanError(subject, rule, getattr(plan, subject))
