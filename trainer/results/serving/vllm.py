"""How vLLM serves a run: the command, and which adapters it reads.

Source:
    vLLM 0.33.0: ``MaxLoRARanks`` in vllm/config/lora.py, ``PEFTHelper`` in vllm/lora/peft_helper.py, and
    https://docs.vllm.ai/en/stable/features/lora/; tests/trainer/results/serving/test_vllm.py says how it was checked.
"""

from collections.abc import Mapping
from typing import Any

from specs import RunError
from specs.adapters import ADAPTERS

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be."""

_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Initial values that leave the base model as it is: ``PEFTHelper._init_is_supported``."""

CONFIG = "adapter_config.json"
TEMPLATE = "chat_template.jinja"
_TEMPLATE_OPTION = ("--chat-template", TEMPLATE)
"""The run's own template; vLLM would take the base model's."""

SAID = ("Held against the adapter reader of vLLM 0.33.0; an older vLLM may read one rank for all modules.",)

_WAY_OUT = "Merge it instead, and serve the folder: python -m trainer merge ID FOLDER"


def max_lora_rank(config: Mapping[str, Any]) -> int:
    """Return the smallest ``--max-lora-rank`` that an adapter fits.

    Raises:
        RunError: If vLLM cannot serve the adapter, with what it lacks.
    """
    lacks = _lacks(config)
    if lacks:
        adapter = ADAPTERS.get(config.get("peft_type"))
        way_out = "Serve it with PEFT, which alone reads it" if adapter and adapter.unmerged else _WAY_OUT
        raise RunError("vLLM", f"serves no adapter with {lacks}", None, way_out)
    rank = max([int(config["r"]), *(int(one) for one in (config.get("rank_pattern") or {}).values())])
    fitting = [one for one in MAX_LORA_RANKS if one >= rank]
    if not fitting:
        raise RunError("vLLM", f"serves adapters of a rank up to {MAX_LORA_RANKS[-1]}", rank, _WAY_OUT)
    return fitting[0]


def _lacks(config: Mapping[str, Any]) -> str:
    """Return what of an adapter vLLM does not read; nothing if it reads all."""
    if config.get("peft_type") != "LORA":
        return f"the type {config.get('peft_type')}, only LoRA"
    for key in ("modules_to_save", "trainable_token_indices"):
        if config.get(key):
            return f"{key}: layers or tokens trained besides LoRA"
    if config.get("target_parameters"):
        return "target_parameters: experts in one tensor, which it reads for some models alone"
    for key in ("use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "alora_invocation_tokens"):
        if config.get(key):
            return key
    if config.get("bias", "none") != "none":
        return f"bias={config['bias']}"
    init = config.get("init_lora_weights")
    changes = isinstance(init, str) and init.lower() not in _PLAIN_INITS
    return f"init_lora_weights={init}, which changes the base model" if changes else ""


def adapter_command(base: str, name: str, *, rank: int) -> list[str]:
    """Return the command that serves a base model with the adapter in the current folder, each by its name."""
    lora = ["--enable-lora", "--lora-modules", f"{name}=.", "--max-lora-rank", str(rank)]
    return ["vllm", "serve", base, *lora, *_TEMPLATE_OPTION]


def model_command(name: str) -> list[str]:
    """Return the command that serves the whole model in the current folder."""
    return ["vllm", "serve", ".", "--served-model-name", name, *_TEMPLATE_OPTION]
