"""The default rules: what measurements and published recipes support, one rule per field, in order of decision."""

from advisor.advice import Rule
from advisor.rules import adapter, batch, beyond_lora, embeddings, precision, schedule, tasks, watching
from advisor.rules.method import within_method
from specs import FinetunePlan
from specs.sharing import UNSHARDED


def _in_4bit(plan: FinetunePlan) -> bool:
    return plan.load_in_4bit


def _quantized(plan: FinetunePlan) -> bool:
    return plan.quantization != "none"


def _sharded(plan: FinetunePlan) -> bool:
    return plan.sharding not in UNSHARDED


def _streamable(plan: FinetunePlan) -> bool:
    return plan.load_in_4bit and plan.num_gpus == 1 and plan.task_type == "CAUSAL_LM"


def _checkpointed(plan: FinetunePlan) -> bool:
    return plan.gradient_checkpointing


_ENTRIES = (
    Rule("task_type", tasks.task_type, ("task_type",)),
    Rule("num_labels", tasks.num_labels, ("num_labels",)),
    Rule("embedding_loss", embeddings.embedding_loss, ("rows", "task")),
    Rule("num_negatives", embeddings.num_negatives, ("rows",)),
    Rule("pooling_mode", embeddings.pooling_mode, ("model_type",)),
    Rule("scale", embeddings.scale, ("embedding_loss",)),
    Rule("load_in_4bit", precision.load_in_4bit, ("method",)),
    Rule("load_in_8bit", precision.load_in_8bit, ("method",)),
    Rule("dtype", precision.dtype, ("gpu",)),
    Rule("bf16", precision.bf16, ("gpu",)),
    Rule("fp16", precision.fp16, ("gpu",)),
    Rule("adapter_dtype", precision.adapter_dtype, ("method",)),
    Rule("sharding", batch.sharding, ("num_gpus",)),
    Rule("offload", batch.offload, ("num_gpus", "sharding"), _sharded),
    Rule("bnb_4bit_quant_type", precision.bnb_4bit_quant_type, ("method",), _in_4bit),
    Rule("bnb_4bit_use_double_quant", precision.bnb_4bit_use_double_quant, ("model",), _in_4bit),
    Rule("bnb_4bit_quant_storage", precision.bnb_4bit_quant_storage, ("sharding",), _in_4bit),
    Rule("prepare_kbit", precision.prepare_kbit, ("method",), _quantized),
    Rule("attn_implementation", batch.attn_implementation, ("model_type",)),
    Rule("max_length", batch.max_length, ("tokens",)),
    Rule("packing", batch.packing, ("task", "attn_implementation")),
    Rule("completion_only_loss", batch.completion_only_loss, ("task",)),
    Rule("loss", batch.loss, ("vocabulary",)),
    Rule("gradient_checkpointing", batch.gradient_checkpointing, ("method", "gpu", "goal")),
    Rule("use_reentrant", batch.use_reentrant, ("sharding",), _checkpointed),
    Rule("every_n_layers", batch.every_n_layers, ("goal",), _checkpointed),
    Rule("activation_offloading", batch.activation_offloading, ("max_length",), _checkpointed),
    Rule("layer_offloading", batch.layer_offloading, ("gpu",), _streamable),
    Rule("torch_empty_cache_steps", batch.torch_empty_cache_steps, ("gpu",)),
    Rule("per_device_train_batch_size", batch.per_device_train_batch_size, ("gpu", "num_gpus", "goal")),
    Rule(
        "gradient_accumulation_steps",
        batch.gradient_accumulation_steps,
        ("per_device_train_batch_size",),
    ),
    Rule("optim", schedule.optim, ("method", "goal", "gpu")),
    Rule("num_train_epochs", schedule.num_train_epochs, ("rows", "task")),
    Rule("max_steps", schedule.max_steps, ("num_train_epochs", "rows")),
    Rule("eval_split", schedule.eval_split, ("rows", "gpu")),
    Rule("learning_rate", schedule.learning_rate, ("task", "size")),
    Rule("lr_scheduler_type", schedule.lr_scheduler_type, ("task",)),
    Rule("warmup_steps", schedule.warmup_steps, ("rows",)),
    Rule("max_grad_norm", schedule.max_grad_norm, ("method",)),
    Rule("logging_steps", schedule.logging_steps, ("rows",)),
    Rule("save_steps", schedule.save_steps, ("rows",)),
    Rule("seed", schedule.seed, ("method",)),
    Rule("train_sampling_strategy", watching.train_sampling_strategy, ("task",)),
    Rule("load_best_model_at_end", watching.load_best_model_at_end, ("eval_split",)),
    Rule("early_stopping_patience", watching.early_stopping_patience, ("num_train_epochs",)),
    Rule("report_to", watching.report_to, ("method",)),
    Rule("r", adapter.r, ("task",)),
    Rule("use_rslora", adapter.use_rslora, ("r",)),
    Rule("use_dora", adapter.use_dora, ("method", "goal")),
    Rule("lora_alpha", adapter.lora_alpha, ("r",)),
    Rule("lora_dropout", adapter.lora_dropout, ("size", "rows", "goal")),
    Rule("target_modules", adapter.target_modules, ("modules", "model_type")),
    Rule("target_parameters", adapter.target_parameters, ("model_type",)),
    Rule("layers_to_transform", beyond_lora.layers_to_transform, ("model_type",)),
    Rule("modules_to_save", beyond_lora.modules_to_save, ("model_type",)),
    Rule("trainable_token_indices", beyond_lora.trainable_token_indices, ("model_type",)),
    Rule("bias", adapter.bias, ("model_type",)),
    Rule("init_lora_weights", adapter.init_lora_weights, ("method",)),
    Rule("loraplus_lr_ratio", adapter.loraplus_lr_ratio, ("method",)),
    Rule("rank_pattern", beyond_lora.rank_pattern, ("r",)),
    Rule("alpha_pattern", beyond_lora.alpha_pattern, ("r",)),
    Rule("init_r", beyond_lora.init_r, ("task",)),
    Rule("target_r", beyond_lora.target_r, ("task", "init_r")),
    Rule("tinit", beyond_lora.tinit, ("rows",)),
    Rule("tfinal", beyond_lora.tfinal, ("rows",)),
    Rule("deltaT", beyond_lora.deltaT, ("rows",)),
    Rule("oft_block_size", beyond_lora.oft_block_size, ("method",)),
    Rule("decompose_factor", beyond_lora.decompose_factor, ("method",)),
    Rule("num_virtual_tokens", beyond_lora.num_virtual_tokens, ("method",)),
    Rule("prompt_tuning_init", beyond_lora.prompt_tuning_init, ("method",)),
    Rule("weight_decay", schedule.weight_decay, ("method",)),
)
RULES: tuple[Rule, ...] = tuple(within_method(entry) for entry in _ENTRIES)
"""Every field that a rule decides; the search finds the method itself."""
