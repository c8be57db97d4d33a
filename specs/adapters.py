"""The table of PEFT's kinds of adapters: how each is configured, what it is put on, what it can do."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Quantization = Literal["none", "8bit", "4bit"]

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One kind of adapter, in PEFT's vocabulary."""

    config: str
    """The name of PEFT's configuration class."""
    arguments: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """What the class calls a value, and the plan's field that holds it."""
    constants: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    """Values that are the same in every plan."""
    also: frozenset[str] = frozenset()
    """Further fields of the plan that mean something to it."""
    on: Literal["linear", "norms", ""] = "linear"
    """What it is put on: the linear layers that ``target_modules`` names, all norms, or no layer at all."""
    transposes: bool = False
    """Whether it can be put on the transposed layers of GPT-2, and is told so by ``fan_in_fan_out``."""
    excludes: bool = True
    """Whether its class has ``exclude_modules``."""
    picks_layers: bool = True
    """Whether its class has ``layers_to_transform``."""
    not_over: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """What the base model may not be quantized to, with the reason as the end of a sentence."""
    unmerged: str = ""
    """Why it cannot be merged into the base model, as the end of a sentence; empty if it can."""
    linear_in_rank: bool = True
    """Whether every size is linear in ``r``, so that one tape prices all ranks."""
    repeats: bool = True
    """Whether layers of a kind have alike adapters, so that a few of them stand for all."""
    as_large: bool = False
    """Whether a pass multiplies with a matrix of the adapted layer's own size once more."""
    weights: Callable[[int, int, Any], int] | None = None
    """The trained weights of a layer with so many inputs and outputs, under a plan; None where layers do not tell."""

    @property
    def fields(self) -> frozenset[str]:
        """The plan's fields that mean something to it."""
        targets = {"target_modules"} if self.on == "linear" else set[str]()
        layers = {"layers_to_transform"} if self.on == "linear" and self.picks_layers else set[str]()
        saved = {"modules_to_save"} if self.on else set[str]()
        return frozenset({*self.arguments.values(), "adapter_dtype"} | targets | layers | saved) | self.also


def _low_rank(inputs: int, outputs: int, plan: Any) -> int:
    return int(plan.r) * (inputs + outputs)


def _adalora(inputs: int, outputs: int, plan: Any) -> int:
    return int(plan.init_r) * (inputs + outputs + 1)


def _miss(_inputs: int, outputs: int, plan: Any) -> int:
    return int(plan.r) * outputs


def _oft(inputs: int, _outputs: int, plan: Any) -> int:
    size = block_size(inputs, plan.oft_block_size)
    return inputs // size * (size * (size - 1) // 2)


def block_size(inputs: int, wanted: int) -> int:
    """Return the size of OFT's blocks: the divisor of a layer's inputs that is nearest, of two the smaller."""
    divisors = [size for size in range(1, inputs + 1) if inputs % size == 0]
    return min(divisors, key=lambda size: (abs(size - wanted), size)) if wanted < inputs else inputs


def _vera(_inputs: int, outputs: int, plan: Any) -> int:
    return int(plan.r) + outputs


def _loha(inputs: int, outputs: int, plan: Any) -> int:
    return 2 * _low_rank(inputs, outputs, plan)


def _lokr(inputs: int, outputs: int, plan: Any) -> int:
    """Return the weights of a small matrix and a large one, which has a low rank where that makes it smaller."""
    (rows, height), (columns, width) = (factors(size, plan.decompose_factor) for size in (outputs, inputs))
    large = height * width if plan.r >= max(height, width) / 2 else plan.r * (height + width)
    return rows * columns + int(large)


def factors(size: int, wanted: int) -> tuple[int, int]:
    """Return two factors of a size, the smaller first: the factor that is wanted, else the largest below it."""
    if size % wanted == 0:
        return wanted, size // wanted
    small = max(one for one in range(1, min(wanted, math.isqrt(size)) + 1) if size % one == 0)
    return small, size // small


def _beft(_inputs: int, outputs: int, _plan: Any) -> int:
    return outputs


_RANK = {"r": "r"}
_LORA = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "bias": "bias"}
_WHOLE = "it computes with the layer's weights as they are stored"
_BY_SIZE = MappingProxyType({"4bit": f"{_WHOLE}, which 4 bit packs into another shape"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """How LoRA's two matrices begin."""

    peft: Any
    """PEFT's ``init_lora_weights``."""
    changes_base: bool = False
    """Whether the base model is changed, by what the matrices then hold of it: only over weights in 16 or 32 bit."""
    reads_rows: bool = False
    """Whether a few batches of the data run through the model first."""
    cost: str = ""
    """What it takes before the first step, in words; empty if nothing to speak of."""


INITS: Mapping[str, Init] = MappingProxyType(
    {
        "default": Init(peft=True),
        "gaussian": Init(peft="gaussian"),
        "pissa": Init(peft="pissa", changes_base=True, cost="a singular value decomposition of every target module"),
        "olora": Init(peft="olora", changes_base=True, cost="a QR decomposition of every target module"),
        "eva": Init(
            peft="eva", reads_rows=True, cost="a few forward passes over the rows, with a decomposition in each"
        ),
    }
)
"""Every ``init_lora_weights`` of a plan."""

ADAPTERS: Mapping[str | None, Adapter] = MappingProxyType(
    {
        "LORA": Adapter(
            config="LoraConfig",
            arguments=_RANK | _LORA | {"use_rslora": "use_rslora", "use_dora": "use_dora"},
            also=frozenset({"init_lora_weights", "loraplus_lr_ratio", "rank_pattern", "alpha_pattern"})
            | {"target_parameters", "trainable_token_indices"},
            transposes=True,
            weights=_low_rank,
        ),
        "ADALORA": Adapter(
            config="AdaLoraConfig",
            arguments=_LORA | {name: name for name in ("init_r", "target_r", "tinit", "tfinal", "deltaT")},
            transposes=True,
            weights=_adalora,
        ),
        "MISS": Adapter(config="MissConfig", arguments=_RANK, linear_in_rank=False, weights=_miss),
        "OFT": Adapter(
            config="OFTConfig",
            arguments={"oft_block_size": "oft_block_size"},
            constants=MappingProxyType({"r": 0}),
            weights=_oft,
        ),
        "VERA": Adapter(config="VeraConfig", arguments=_RANK, transposes=True, excludes=False, weights=_vera),
        "LOHA": Adapter(
            config="LoHaConfig",
            arguments=_RANK | {"alpha": "lora_alpha"},
            not_over=_BY_SIZE,
            as_large=True,
            weights=_loha,
        ),
        "LOKR": Adapter(
            config="LoKrConfig",
            arguments=_RANK | {"alpha": "lora_alpha", "decompose_factor": "decompose_factor"},
            not_over=_BY_SIZE,
            linear_in_rank=False,
            as_large=True,
            weights=_lokr,
        ),
        "HIRA": Adapter(config="HiraConfig", arguments=_RANK, transposes=True, as_large=True, weights=_low_rank),
        "BEFT": Adapter(
            config="BeftConfig",
            excludes=False,
            picks_layers=False,
            unmerged="adds a bias to layers, and most models have no place for one",
            weights=_beft,
        ),
        "LN_TUNING": Adapter(config="LNTuningConfig", on="norms"),
        "IA3": Adapter(config="IA3Config", transposes=True, picks_layers=False),
        "PROMPT_TUNING": Adapter(
            config="PromptTuningConfig",
            arguments={name: name for name in ("num_virtual_tokens", "prompt_tuning_init")},
            on="",
            unmerged="changes no weights",
        ),
        "PREFIX_TUNING": Adapter(
            config="PrefixTuningConfig",
            arguments={"num_virtual_tokens": "num_virtual_tokens"},
            # PEFT's method comparison, MetaMathQA on Llama-3.2-3B: 35.8 % from zeros, 18.6 % from random values.
            constants=MappingProxyType({"init_weights": "zero"}),
            on="",
            unmerged="changes no weights",
            repeats=False,
        ),
    }
)
"""Every kind of adapter by PEFT's ``PeftType``. What may be quantized was found by training each with PEFT 0.21.2."""
