"""The table of fine-tuning methods that advisor, estimator and trainer share: a new method is one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Quantization = Literal["none", "8bit", "4bit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to fine-tune, in PEFT's vocabulary."""

    name: str
    """The word used in plans and on the command line."""
    label: str
    """The word used on screen."""
    peft_type: str | None
    """PEFT's ``PeftType``, or None when every weight is trained."""
    quantization: Quantization | None = "none"
    """What bitsandbytes does to the frozen base model; None leaves it to ``load_in_4bit`` and ``load_in_8bit``."""
    preset: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Plan fields that define the method; every plan of this method has exactly these values."""
    summary: str
    """What it does, in one sentence."""
    source: str
    """The paper or documentation that defines it."""

    @property
    def trains_adapter(self) -> bool:
        """Whether the base model stays frozen."""
        return self.peft_type is not None

    @property
    def has_rank(self) -> bool:
        """Whether the method uses ``r``."""
        return self.uses("r")

    def uses(self, field: str) -> bool:
        """Return whether the method uses a plan field; the others are ignored."""
        return field not in _ADAPTER_FIELDS or field in _FIELDS[self.peft_type]


_LORA_FIELDS = frozenset({"lora_alpha", "lora_dropout", "target_modules", "bias", "adapter_dtype"})
_FIELDS: Mapping[str | None, frozenset[str]] = {
    None: frozenset(),
    "LORA": _LORA_FIELDS
    | {"r", "use_rslora", "use_dora", "init_lora_weights", "loraplus_lr_ratio", "rank_pattern", "alpha_pattern"}
    | {"target_parameters"},
    "ADALORA": _LORA_FIELDS | {"init_r", "target_r", "tinit", "tfinal", "deltaT"},
    "IA3": frozenset({"target_modules", "adapter_dtype"}),
    "PROMPT_TUNING": frozenset({"num_virtual_tokens", "prompt_tuning_init", "adapter_dtype"}),
    "PREFIX_TUNING": frozenset({"num_virtual_tokens", "adapter_dtype"}),
}
_ADAPTER_FIELDS = frozenset().union(*_FIELDS.values())


_ENTRIES = (
    Method(
        name="full",
        label="Full fine-tuning",
        peft_type=None,
        summary="Every weight of the model is trained.",
        source="https://huggingface.co/docs/transformers/training",
    ),
    Method(
        name="lora",
        label="LoRA",
        peft_type="LORA",
        summary="The base model is frozen in 16-bit; two small matrices per target module are trained.",
        source="Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685",
    ),
    Method(
        name="qlora",
        label="QLoRA (4-bit)",
        peft_type="LORA",
        quantization="4bit",
        preset=MappingProxyType({"load_in_4bit": True}),
        summary="LoRA over a base model whose linear layers are quantized to 4 bits.",
        source="Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314",
    ),
    Method(
        name="lora-8bit",
        label="LoRA (8-bit)",
        peft_type="LORA",
        quantization="8bit",
        preset=MappingProxyType({"load_in_8bit": True}),
        summary="LoRA over a base model whose linear layers are quantized to 8 bits.",
        source="Dettmers et al. 2022, LLM.int8(), https://arxiv.org/abs/2208.07339",
    ),
    Method(
        name="rslora",
        label="rsLoRA",
        peft_type="LORA",
        preset=MappingProxyType({"use_rslora": True}),
        summary="LoRA scaled by alpha / sqrt(r), which keeps high ranks stable.",
        source="Kalajdzievski 2023, rsLoRA, https://arxiv.org/abs/2312.03732",
    ),
    Method(
        name="dora",
        label="DoRA",
        peft_type="LORA",
        preset=MappingProxyType({"use_dora": True}),
        summary="LoRA on the direction of each weight, with its magnitude trained separately.",
        source="Liu et al. 2024, DoRA, https://arxiv.org/abs/2402.09353",
    ),
    Method(
        name="adalora",
        label="AdaLoRA",
        peft_type="ADALORA",
        quantization=None,
        summary="LoRA that starts with rank init_r everywhere and prunes the ranks that matter least.",
        source="Zhang et al. 2023, AdaLoRA, https://arxiv.org/abs/2303.10512",
    ),
    Method(
        name="ia3",
        label="IA3",
        peft_type="IA3",
        quantization=None,
        summary="One vector per target module is trained; it scales the module's input or output.",
        source="Liu et al. 2022, (IA)^3, https://arxiv.org/abs/2205.05638",
    ),
    Method(
        name="prompt-tuning",
        label="Prompt tuning",
        peft_type="PROMPT_TUNING",
        quantization=None,
        # Virtual tokens come before each row, and packing joins many rows into one.
        preset=MappingProxyType({"packing": False}),
        summary="The embeddings of virtual tokens in front of every sequence are trained.",
        source="Lester et al. 2021, Prompt Tuning, https://arxiv.org/abs/2104.08691",
    ),
    Method(
        name="prefix-tuning",
        label="Prefix tuning",
        peft_type="PREFIX_TUNING",
        quantization=None,
        # PEFT 0.21, PeftModel._setup_prompt_encoder: the prefix is in the KV cache, which checkpointing does not use.
        preset=MappingProxyType({"packing": False, "gradient_checkpointing": False}),
        summary="Keys and values of virtual tokens that every layer attends to are trained.",
        source="Li and Liang 2021, Prefix-Tuning, https://arxiv.org/abs/2101.00190",
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every method by name."""
