"""The fields of a plan as the page groups and explains them. Pure."""

import typing
from collections.abc import Mapping
from typing import Any

from specs import FinetunePlan

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Adapter": (
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
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
"""What a person may fix besides the method, in the order of the page."""
MEANINGS: Mapping[str, str] = {
    "method": "How the model is fine-tuned: all weights, or a small adapter over a frozen base.",
    "r": "Rank of the adapter: the width of the two matrices that are trained for each target module.",
    "lora_alpha": "The update is multiplied by lora_alpha / r.",
    "lora_dropout": "Share of the adapter's inputs that are dropped in training.",
    "target_modules": "The linear layers that get an adapter.",
    "bias": "Which biases are trained besides the adapter.",
    "use_rslora": "Multiply the update by lora_alpha / sqrt(r) instead, which keeps high ranks stable.",
    "use_dora": "Train the magnitude of each weight apart from its direction.",
    "init_lora_weights": "How the two matrices start.",
    "loraplus_lr_ratio": "Learning rate of matrix B over that of matrix A.",
    "rank_pattern": "Modules with a rank of their own, such as q_proj: 8, down_proj: 32.",
    "alpha_pattern": "Modules with a lora_alpha of their own, such as q_proj: 16.",
    "init_r": "AdaLoRA: rank of every module at the start.",
    "target_r": "AdaLoRA: rank of a module at the end, on average.",
    "tinit": "AdaLoRA: steps before ranks begin to be taken away.",
    "tfinal": "AdaLoRA: last steps, in which ranks stay.",
    "deltaT": "AdaLoRA: steps between two allocations of ranks.",
    "num_virtual_tokens": "Prompt and prefix tuning: trained tokens that stand before every sequence.",
    "prompt_tuning_init": "Prompt tuning: whether virtual tokens start at random or as words of the vocabulary.",
    "adapter_dtype": "Number format of the adapter, its gradients and its optimizer states.",
    "per_device_train_batch_size": "Sequences of one forward pass on one device.",
    "gradient_accumulation_steps": "Forward and backward passes before the weights change once.",
    "max_length": "Longest sequence in tokens; what is longer is cut.",
    "packing": "Join short examples into sequences of max_length.",
    "completion_only_loss": "Learn from the answers only, not from the prompts.",
    "optim": "The rule that turns gradients into changes of the weights.",
    "learning_rate": "Size of those changes.",
    "lr_scheduler_type": "How the learning rate moves from start to end.",
    "warmup_steps": "Steps in which the learning rate rises from zero; under 1 a share of all steps.",
    "weight_decay": "How strongly weights are pulled towards zero.",
    "max_grad_norm": "Longer gradients are shortened to this length.",
    "num_train_epochs": "How often the data is gone through.",
    "max_steps": "Optimizer steps in all; -1 lets the epochs decide.",
    "eval_split": "Share of the data held out to measure progress on unseen examples.",
    "load_best_model_at_end": "Keep the weights with the lowest evaluation loss, not the last ones.",
    "early_stopping_patience": "Evaluations in a row without a lower loss after which the run ends.",
    "train_sampling_strategy": "Whether rows of like length share a batch, so that little is padded.",
    "report_to": "Where metrics are also sent; needs the package and your own account.",
    "save_steps": "Steps between two checkpoints.",
    "logging_steps": "Steps between two points of the chart.",
    "seed": "Start of the random numbers; the same seed repeats a run.",
    "gradient_checkpointing": "Compute activations twice instead of keeping them: less memory, about a third slower.",
    "use_reentrant": "Which of PyTorch's two checkpointing implementations is used.",
    "loss": "Whether the scores of the whole vocabulary are kept for all positions, in chunks, or never.",
    "attn_implementation": "Which attention kernel is asked for.",
    "sharding": "How several devices share the work.",
    "offload": "What lies in RAM instead of on the devices.",
    "load_in_4bit": "Quantize the base model to 4 bits; LoRA's methods decide it themselves.",
    "load_in_8bit": "Quantize the base model to 8 bits; LoRA's methods decide it themselves.",
    "dtype": "Number format of the base model's weights that are not quantized.",
    "bf16": "Compute in bfloat16 where that is safe (mixed precision).",
    "fp16": "Compute in float16 with loss scaling where that is safe (mixed precision).",
    "prepare_kbit": "Raise what is not quantized to 32 bit, as PEFT's prepare_model_for_kbit_training does.",
    "bnb_4bit_quant_type": "The sixteen values that a 4-bit weight can take.",
    "bnb_4bit_use_double_quant": "Quantize the quantization constants too.",
    "bnb_4bit_quant_storage": "The number format that packs the 4-bit weights; FSDP needs that of the others.",
}
"""One plain sentence for each field."""

ANNOTATIONS: Mapping[str, Any] = typing.get_type_hints(FinetunePlan)


def choices(name: str) -> tuple[Any, ...]:
    """Return the values that a field can take, or nothing where it is a number or a text."""
    annotation = ANNOTATIONS[name]
    if annotation is bool:
        return (True, False)
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def is_whole(name: str) -> bool:
    """Return whether a field takes whole numbers only."""
    return ANNOTATIONS[name] is int or int in typing.get_args(ANNOTATIONS[name])
