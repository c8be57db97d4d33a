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
    quantization: Quantization = "none"
    """What bitsandbytes does to the frozen base model."""
    preset: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Plan fields that make the method what it is; a plan of this method holds exactly these values."""
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
        """Whether r, lora_alpha and target_modules mean something to it."""
        return self.peft_type in {"LORA", "ADALORA"}


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
        summary="The base model is frozen in 16 bit; two small matrices per target module are trained.",
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
        summary="LoRA on the direction of each weight, with its magnitude trained apart.",
        source="Liu et al. 2024, DoRA, https://arxiv.org/abs/2402.09353",
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every method by name."""
