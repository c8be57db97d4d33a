"""The fields of a plan as the page groups and explains them. Pure."""

import math
import typing
from collections.abc import Mapping
from typing import Any

from advisor.rules.batch import CHECKPOINTING_COST
from specs import FinetunePlan
from specs.fields import NUMBERS, PATTERNS

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Task": ("task_type", "num_labels", "embedding_loss", "num_negatives", "pooling_mode", "scale"),
    "Adapter": (
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "target_parameters",
        "layers_to_transform",
        "modules_to_save",
        "trainable_token_indices",
        "bias",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "loraplus_lr_ratio",
        "adapter_dtype",
        "rank_pattern",
        "alpha_pattern",
    ),
    "Other adapters": (
        "init_r",
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "oft_block_size",
        "decompose_factor",
        "num_virtual_tokens",
        "prompt_tuning_init",
    ),
    "Batch": (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_length",
        "packing",
        "train_sampling_strategy",
        "completion_only_loss",
    ),
    "Optimization": (
        "optim",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "eval_split",
        "load_best_model_at_end",
        "early_stopping_patience",
        "save_steps",
        "logging_steps",
        "report_to",
        "seed",
    ),
    "Memory": (
        "gradient_checkpointing",
        "use_reentrant",
        "every_n_layers",
        "activation_offloading",
        "layer_offloading",
        "torch_empty_cache_steps",
        "loss",
        "attn_implementation",
        "sharding",
        "offload",
    ),
    "Base model": (
        "load_in_4bit",
        "load_in_8bit",
        "dtype",
        "bf16",
        "fp16",
        "prepare_kbit",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_quant_storage",
    ),
}
"""The fields that can be overridden besides the method, in the order of the page."""
ALL: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
"""Every field that can be overridden besides the method."""

ROWS: Mapping[str, tuple[str, ...]] = {
    "Method": ("method",),
    "Several devices": ("sharding",),
    "Rank": ("r",),
    "Scale": ("lora_alpha",),
    "Target modules": ("target_modules",),
    "Sequence length": ("max_length",),
    "Batch x accumulation": ("per_device_train_batch_size", "gradient_accumulation_steps"),
    "Learning rate": ("learning_rate",),
    "Epochs": ("num_train_epochs",),
    "Checkpointing": ("gradient_checkpointing",),
    "Optimizer": ("optim",),
}
"""The rows that matter most, with the fields that each edits."""


def label(field: str) -> str:
    """Return what a field is called where there is little place: as its row is, and by its own name without one."""
    if field == "per_device_train_batch_size":
        return "Batch"
    return next((words for words, names in ROWS.items() if names == (field,)), field)


MEANINGS: Mapping[str, str] = {
    "task_type": "What the model produces: text, or for a given text its class, tags for its words, an answer found in "
    "it, or a vector to find it by.",
    "num_labels": "How many classes a text, or how many tags a word, can have.",
    "embedding_loss": "How vectors are compared: with those of all other rows of a batch, or by the order of scores.",
    "num_negatives": "Wrong texts that each row has beside the right one.",
    "pooling_mode": "How the vectors of a text's tokens become one.",
    "scale": "What cosines are multiplied by in the loss: one over its temperature.",
    "method": "How the model is fine-tuned: all weights, or a small adapter on a frozen base model.",
    "r": "Rank of the adapter: the width of the matrices that are trained for each target module.",
    "lora_alpha": "The update is multiplied by lora_alpha / r.",
    "lora_dropout": "Share of the adapter's inputs that are dropped at random during training.",
    "target_modules": "The linear layers that get an adapter.",
    "target_parameters": "Stacked experts that get an adapter too, one for each expert of each layer.",
    "layers_to_transform": "The numbers of the layers that get an adapter, from 0, such as 8, 9, 10; all without any.",
    "modules_to_save": "Modules that are trained whole besides the adapter, such as lm_head.",
    "trainable_token_indices": "Tokens, by their numbers, whose embeddings are trained too: for tokens that are new.",
    "bias": "Which biases are trained along with the adapter.",
    "use_rslora": "Multiply the update by lora_alpha / sqrt(r) instead, which keeps high ranks stable.",
    "use_dora": "Train the magnitude of each weight separately from its direction.",
    "init_lora_weights": "How the two matrices begin: pissa and olora with a part of each weight, eva as the data say.",
    "loraplus_lr_ratio": "Learning rate of matrix B divided by that of matrix A.",
    "rank_pattern": "Modules with a rank of their own, such as q_proj: 8, down_proj: 32.",
    "alpha_pattern": "Modules with a lora_alpha of their own, such as q_proj: 16.",
    "init_r": "AdaLoRA: rank of every module at the start.",
    "target_r": "AdaLoRA: rank of a module at the end, on average.",
    "tinit": "AdaLoRA: steps before ranks are first reduced.",
    "tfinal": "AdaLoRA: final steps, during which ranks no longer change.",
    "deltaT": "AdaLoRA: steps between two allocations of ranks.",
    "oft_block_size": "OFT: how many inputs of a layer turn together; larger blocks train more weights.",
    "decompose_factor": "LoKr: the factor that splits the sizes of a layer; larger ones train fewer weights.",
    "num_virtual_tokens": "Prompt and prefix tuning: trained tokens placed before every sequence.",
    "prompt_tuning_init": "Prompt tuning: whether virtual tokens start at random or as tokens from the vocabulary.",
    "adapter_dtype": "Number format of the adapter, its gradients and its optimizer states.",
    "per_device_train_batch_size": "Sequences in one forward pass on one device.",
    "gradient_accumulation_steps": "Forward and backward passes per update of the weights.",
    "max_length": "Longest sequence in tokens; longer ones are truncated.",
    "packing": "Join short examples into sequences of max_length.",
    "completion_only_loss": "Learn from the answers only, not from the prompts.",
    "optim": "The rule that turns gradients into updates of the weights.",
    "learning_rate": "How large each update of the weights is.",
    "lr_scheduler_type": "How the learning rate changes over the run.",
    "warmup_steps": "Steps over which the learning rate rises from zero; a value under 1 is a share of all steps.",
    "weight_decay": "How strongly weights are pulled towards zero.",
    "max_grad_norm": "Gradients with a larger norm are clipped to this one.",
    "num_train_epochs": "How many times the run goes through the data.",
    "max_steps": "Total number of optimizer steps; -1 leaves it to num_train_epochs.",
    "eval_split": "Share of the data held out to measure progress on unseen examples.",
    "load_best_model_at_end": "Keep the weights with the lowest evaluation loss, not the last ones.",
    "early_stopping_patience": "Ends the run after this many evaluations in a row without a lower loss.",
    "train_sampling_strategy": "Whether rows of similar length share a batch, which saves padding.",
    "report_to": "Where metrics go besides TensorBoard's files, which are always written; needs its package.",
    "save_steps": "Steps between two checkpoints.",
    "logging_steps": "Steps between two points on the chart.",
    "seed": "Seed of the random numbers; the same seed repeats a run.",
    "gradient_checkpointing": f"Recompute activations instead of keeping them: less memory for {CHECKPOINTING_COST}.",
    "use_reentrant": "Which of PyTorch's two checkpointing implementations is used.",
    "every_n_layers": "Recompute only every n-th layer: 1 recomputes all; more is faster and takes more memory.",
    "activation_offloading": "Whether what checkpointing keeps waits in RAM until the backward pass needs it.",
    "layer_offloading": "Whether the frozen 4-bit layers wait in RAM; each is copied to the card before it computes.",
    "torch_empty_cache_steps": "Give unused memory back every so many steps: it can lower the peak, but takes time.",
    "loss": "Whether the logits are kept for all positions at once or computed in chunks.",
    "attn_implementation": "Which attention kernel to use.",
    "sharding": "How several devices share the work.",
    "offload": "What is kept in RAM instead of on the devices.",
    "load_in_4bit": "Quantize the base model to 4 bits; the LoRA methods set this themselves.",
    "load_in_8bit": "Quantize the base model to 8 bits; the LoRA methods set this themselves.",
    "dtype": "Number format of the base model's weights that are not quantized.",
    "bf16": "Compute in bfloat16 where that is safe (mixed precision).",
    "fp16": "Compute in float16 with loss scaling where that is safe (mixed precision).",
    "prepare_kbit": "Cast what is not quantized to 32 bits, as PEFT's prepare_model_for_kbit_training does.",
    "bnb_4bit_quant_type": "The sixteen values that a 4-bit weight can take.",
    "bnb_4bit_use_double_quant": "Quantize the quantization constants too.",
    "bnb_4bit_quant_storage": "The number format that packs the 4-bit weights; FSDP needs that of the other weights.",
}
"""One plain sentence for each field."""

ANNOTATIONS: Mapping[str, Any] = typing.get_type_hints(FinetunePlan)


def choices(name: str) -> tuple[Any, ...]:
    """Return the values that a field can take; empty for a number or a text."""
    annotation = ANNOTATIONS[name]
    if annotation is bool:
        return (True, False)
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def is_whole(name: str) -> bool:
    """Return whether a field takes whole numbers only."""
    return ANNOTATIONS[name] is int or int in typing.get_args(ANNOTATIONS[name])


def rule(name: str) -> str:
    """Return what a field must be, for the sentence about a value that is not."""
    if name in PATTERNS:
        return "must name modules with numbers, such as q_proj: 8"
    if name in NUMBERS:
        return "must be whole numbers, such as 0, 1, 2"
    return "must be a whole number" if is_whole(name) else "must be a number"


def is_written_right(name: str, written: str) -> bool:
    """Return whether a text is a finite number for a numeric field, and a whole one where the field takes no other."""
    if name in PATTERNS:
        return True
    if name in NUMBERS:
        return all(part.isdecimal() for part in written.replace(",", " ").split())
    try:
        number = float(written)
    except ValueError:
        return False
    return math.isfinite(number) and (number.is_integer() or not is_whole(name))
