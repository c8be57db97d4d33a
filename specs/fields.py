"""The fields of a plan, under the names that PEFT, TRL, transformers and bitsandbytes give them."""

import math
from dataclasses import dataclass
from typing import Literal

from specs.adapters import INITS, Quantization
from specs.methods import METHODS
from specs.tasks import TASK_TYPES, TaskTypeName

Dtype = Literal["float32", "bfloat16", "float16"]
QuantType = Literal["nf4", "fp4"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Loss = Literal["full", "chunked"]
PoolingMode = Literal["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"]
EmbeddingLoss = Literal["MultipleNegativesRankingLoss", "CoSENTLoss"]
Bias = Literal["none", "all", "lora_only"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
Offload = Literal["none", "optimizer", "all"]
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

LEAST_COMPARED = 2
"""Rows of a batch without which a loss that compares them is 0."""

Pattern = tuple[tuple[str, int], ...]
"""Module names or regular expressions, each with a number; in JSON, a mapping. The first match counts."""

PATTERNS = ("rank_pattern", "alpha_pattern")
"""Fields that hold a pattern."""

NAMES = ("target_modules", "target_parameters", "modules_to_save")
"""Fields that hold names of a model's parts."""

NUMBERS = ("layers_to_transform", "trainable_token_indices")
"""Fields that hold numbers of layers or of tokens."""
LISTS = (*NAMES, *NUMBERS)
"""Fields that are lists in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFields:
    """The fields of a plan and what follows from them, without checks that they fit together."""

    model_name_or_path: str
    """Catalog name, Hub id, or folder of the base model."""
    method: str
    """A name from ``specs.METHODS``."""
    task_type: TaskTypeName = "CAUSAL_LM"
    """What the model learns to give out, as PEFT's ``TaskType``: one of ``specs.TASK_TYPES``."""
    num_labels: int = 2
    """Classes that a text, or tags that a word may have; ignored by tasks without."""
    pooling_mode: PoolingMode = "mean"
    """Embeddings: how the vectors of a text's tokens become one; sentence-transformers' name."""
    embedding_loss: EmbeddingLoss = "MultipleNegativesRankingLoss"
    """Embeddings: the class of sentence-transformers that compares the vectors. ``MultipleNegativesRankingLoss`` takes
    the texts of all other rows of the batch for wrong ones; ``CoSENTLoss`` learns the order of scores."""
    num_negatives: int = 0
    """Embeddings: wrong texts that each row brings along, besides those of the other rows."""
    scale: float = 20.0
    """Embeddings: by what the cosines are multiplied in the loss, one over its temperature."""

    r: int = 16
    """Rank of the adapter; ignored by methods without one."""
    lora_alpha: int = 32
    """Adapter scale: the update is multiplied by alpha / r, or by alpha / sqrt(r) under ``use_rslora``."""
    lora_dropout: float = 0.0
    """Share of adapter inputs dropped in training."""
    target_modules: TargetModules = "all-linear"
    """Last part of the names of the adapted modules, or ``all-linear``: every linear layer of the blocks, but no router
    and no expert."""
    target_parameters: tuple[str, ...] = ()
    """Stacked experts to adapt too, such as ``experts.down_proj``; PEFT's name."""
    layers_to_transform: tuple[int, ...] = ()
    """The numbers of the layers that are adapted, from 0; none given adapts all. PEFT's name."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained whole besides the adapter, in the base model's ``dtype``, such as ``lm_head``; PEFT's
    name."""
    trainable_token_indices: tuple[int, ...] = ()
    """Tokens, by their numbers, whose embeddings are trained besides the adapter; PEFT's name."""
    bias: Bias = "none"
    """Which biases are trained besides the adapter."""
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Literal["default", "pissa", "gaussian", "olora", "eva"] = "default"
    """How A and B start; ``default`` is PEFT's ``True``: Kaiming-uniform A, zero B. PiSSA and OLoRA begin with a part
    of each weight, EVA with the directions in which the data varies."""
    loraplus_lr_ratio: float | None = None
    """LoRA+: learning rate of B divided by that of A; None trains both at the same rate."""
    rank_pattern: Pattern = ()
    """Modules with their own rank instead of ``r``."""
    alpha_pattern: Pattern = ()
    """Modules with their own scale instead of ``lora_alpha``."""

    init_r: int = 12
    """AdaLoRA: rank of every module at the start."""
    target_r: int = 8
    """AdaLoRA: rank of a module at the end, on average."""
    tinit: int = 0
    """AdaLoRA: first steps, before any rank is pruned."""
    tfinal: int = 0
    """AdaLoRA: last steps, during which ranks stay fixed."""
    deltaT: int = 1  # noqa: N815 - PEFT's name
    """AdaLoRA: steps between two rank allocations."""

    oft_block_size: int = 32
    """OFT: inputs that turn together; a layer takes the divisor of its inputs that is nearest."""
    decompose_factor: int = 4
    """LoKr: the smaller factor that each size of a layer is split by; the largest divisor up to it counts."""

    num_virtual_tokens: int = 20
    """Prompt and prefix tuning: trained tokens in front of every sequence; ``max_length`` does not count them."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB"] = "RANDOM"
    """Prompt tuning: whether virtual tokens start as random numbers or as words of the vocabulary."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: QuantType = "nf4"
    bnb_4bit_use_double_quant: bool = True
    """Whether the quantization constants are quantized too: 0.516 instead of 0.5625 bytes per weight."""
    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"
    """The dtype that the 4-bit weights are packed into; FSDP needs that of the other weights."""

    dtype: Dtype = "bfloat16"
    """The dtype of the base model's unquantized weights, and the one that 4-bit layers compute in."""
    bf16: bool = False
    """Autocast to bfloat16 (mixed precision), transformers' ``bf16``."""
    fp16: bool = False
    """Autocast to float16 with loss scaling, transformers' ``fp16``."""
    adapter_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the adapter's weights, gradients and optimizer states."""
    prepare_kbit: bool = False
    """Whether PEFT's ``prepare_model_for_kbit_training`` upcasts unquantized weights to 32-bit."""

    per_device_train_batch_size: int = 1
    """Sequences per forward pass on one device."""
    gradient_accumulation_steps: int = 1
    """Forward and backward passes per optimizer step."""
    max_length: int = 1024
    """Longest sequence in tokens; longer ones are truncated."""
    packing: bool = False
    """Whether short examples are joined into sequences of ``max_length``."""
    completion_only_loss: bool = True
    """Whether prompt tokens are left out of the loss."""
    loss: Loss = "chunked"
    """``full``: logits of all positions at once; ``chunked``: TRL's default, a chunk of positions at a time."""
    attn_implementation: Attention = "sdpa"
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass instead of being kept."""
    use_reentrant: bool = False
    """Which of PyTorch's two checkpointing implementations is used."""
    every_n_layers: int = 1
    """Which layers ``gradient_checkpointing`` recomputes: the first and every n-th after it; transformers' name."""
    activation_offloading: bool = False
    """Whether what ``gradient_checkpointing`` keeps, the input of each recomputed layer, waits in RAM: transformers'
    ``offload``, by TRL's name."""
    layer_offloading: bool = False
    """Whether the frozen 4-bit layers wait in RAM, each copied to the device before it computes; Axolotl's name."""

    torch_empty_cache_steps: int | None = None
    """Every so many steps PyTorch gives unused memory back to the driver before the backward pass; None never does."""

    optim: Optimizer = "adamw_torch_fused"
    learning_rate: float = 2e-4
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: float = 0.03
    """Steps of linear warm-up; below 1, a share of all steps."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: float = 1.0
    max_steps: int = -1
    """Total number of optimizer steps; -1 lets ``num_train_epochs`` decide."""
    logging_steps: int = 1
    save_steps: int = 100
    eval_split: float = 0.0
    """Share of the data held out for evaluation; 0 evaluates nothing."""
    seed: int = 42
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """Order of the rows; ``group_by_length`` batches rows of similar length, so that little is padded."""
    load_best_model_at_end: bool = False
    """Whether the result is the weights with the lowest evaluation loss instead of the last ones."""
    early_stopping_patience: int | None = None
    """Evaluations in a row without a lower loss after which the run ends; None lets it finish."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where metrics are also sent; each service needs its package and the person's own account."""

    num_gpus: int = 1
    sharding: Sharding = "none"
    """How several devices share the work."""
    offload: Offload = "none"
    """What is kept in RAM instead of on the devices: ``optimizer`` is DeepSpeed's ``offload_optimizer``; ``all`` adds
    ``offload_param`` (FSDP's ``cpu_offload``), so everything that is sharded."""

    def recomputed_layers(self, num_layers: int) -> int:
        """Return how many of so many layers the backward pass computes again."""
        return -(-num_layers // self.every_n_layers) if self.gradient_checkpointing else 0

    def alpha_at(self, r: int) -> int:
        """Return the ``lora_alpha`` that goes with another rank: the update's scale falls with sqrt(r)."""
        return self.lora_alpha if self.use_rslora else max(1, round(self.lora_alpha * math.sqrt(r / self.r)))

    @property
    def keeps_base(self) -> bool:
        """Whether switching the adapter off gives the base model back: not with trained biases, PiSSA or OLoRA."""
        changed = self.bias != "none" or INITS[self.init_lora_weights].changes_base
        return METHODS[self.method].trains_adapter and not changed

    @property
    def effective_batch_size(self) -> int:
        """Sequences per optimizer step over all devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.num_gpus

    @property
    def least_batch_size(self) -> int:
        """The fewest sequences of a forward pass: two where each row is compared with the others of its batch."""
        return LEAST_COMPARED if TASK_TYPES[self.task_type].embeds and not self.num_negatives else 1

    @property
    def texts_per_row(self) -> int:
        """Texts of a row, each of which the model reads as a sequence of its own."""
        return 2 + self.num_negatives if TASK_TYPES[self.task_type].embeds else 1

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
