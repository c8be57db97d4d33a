"""The table of fine-tuning methods that advisor, estimator and trainer share: a new method is one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from specs.adapters import ADAPTERS, Adapter, Quantization


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
    def adapter(self) -> Adapter | None:
        """What kind of adapter it trains; None when every weight is trained."""
        return ADAPTERS[self.peft_type] if self.peft_type else None

    @property
    def has_rank(self) -> bool:
        """Whether the method uses ``r``."""
        return self.uses("r")

    @property
    def size_field(self) -> str:
        """The field that says how much the method can learn; empty if none does."""
        return next(filter(self.uses, _SIZES), "")

    def uses(self, field: str) -> bool:
        """Return whether the method uses a plan field; the others are ignored."""
        return field not in _ADAPTER_FIELDS or (self.adapter is not None and field in self.adapter.fields)


_SIZES = ("r", "target_r", "oft_block_size", "num_virtual_tokens")
_ADAPTER_FIELDS = frozenset[str]().union(*(adapter.fields for adapter in ADAPTERS.values()))


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
        name="miss",
        label="MiSS",
        peft_type="MISS",
        quantization=None,
        summary="One matrix per target module is trained, r rows as wide as the output, and repeated along the weight.",
        source="Kang and Yin 2024, MiSS, https://arxiv.org/abs/2409.15371",
    ),
    Method(
        name="oft",
        label="OFT, QOFT",
        peft_type="OFT",
        quantization=None,
        summary="The inputs of target modules are turned by trained rotations, block by block; over 4 bit it is QOFT.",
        source="Qiu et al. 2025, Orthogonal Finetuning Made Scalable, https://arxiv.org/abs/2506.19847",
    ),
    Method(
        name="vera",
        label="VeRA",
        peft_type="VERA",
        quantization=None,
        summary="Two vectors per target module are trained; they scale random matrices that all modules share.",
        source="Kopiczko et al. 2023, VeRA, https://arxiv.org/abs/2310.11454",
    ),
    Method(
        name="hira",
        label="HiRA",
        peft_type="HIRA",
        quantization=None,
        summary="LoRA's product is multiplied with the weight element by element, so that the update has a high rank.",
        source="Huang et al. 2025, HiRA, https://openreview.net/forum?id=TwJrTz9cRS",
    ),
    Method(
        name="loha",
        label="LoHa",
        peft_type="LOHA",
        quantization=None,
        summary="Two products of low rank are multiplied element by element: rank r x r for the weights of 2r.",
        source="Hyeon-Woo et al. 2021, FedPara, https://arxiv.org/abs/2108.06098",
    ),
    Method(
        name="lokr",
        label="LoKr",
        peft_type="LOKR",
        quantization=None,
        summary="The update is the Kronecker product of a small matrix and one of low rank.",
        source="Edalati et al. 2022, KronA, https://arxiv.org/abs/2212.10650",
    ),
    Method(
        name="beft",
        label="BEFT (biases only)",
        peft_type="BEFT",
        quantization=None,
        summary="One bias per target module is trained, as in BitFit, also where the model has none.",
        source="Ben Zaken et al. 2021, BitFit, https://arxiv.org/abs/2106.10199",
    ),
    Method(
        name="ln-tuning",
        label="LN tuning (norms only)",
        peft_type="LN_TUNING",
        quantization=None,
        summary="Only the weights of the layer norms are trained.",
        source="Zhao et al. 2023, Tuning LayerNorm in Attention, https://arxiv.org/abs/2312.11420",
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
