"""Which fields of a ``config.json`` decide tensor shapes, and when two configurations have the same shapes."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from specs import ModelSpec
from specs.paths import assets

SHAPE_FIELDS = (
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "bias",
    "use_bias",
    "use_qkv_bias",
    "use_qk_norm",
    "qk_layernorm",
    "lm_head_bias",
    "no_bias",
    "moe_intermediate_size",
    "intermediate_size_mlp",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "first_k_dense_replace",
    "interleave_moe_layer_step",
    "decoder_sparse_step",
    "mlp_only_layers",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "word_embed_proj_dim",
    "new_decoder_architecture",
    "multi_query",
    "parallel_attn",
    "alibi",
)
"""Fields besides ModelSpec's own that decide which tensors exist and how large they are."""

SIZE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
)
"""Sizes that the text tower of a multimodal file may leave to its type's defaults, as Gemma 3's do."""

# These learn one vector per position.
_LEARNED_POSITIONS = frozenset({"gpt2", "opt"})


@functools.cache
def architectures() -> Mapping[str, Mapping[str, Any]]:
    """Return what transformers builds by default for each model_type it knows."""
    text = (assets() / "architectures.json").read_text(encoding="utf-8")
    known: dict[str, Mapping[str, Any]] = json.loads(text)["architectures"]
    return known


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that says whether the output head is tied: if the file does not say, its type decides."""
    defaults = architectures().get(str(config.get("model_type")), {}).get("defaults", {})
    tied = {"tie_word_embeddings": defaults["tie_word_embeddings"]} if "tie_word_embeddings" in defaults else {}
    return {**tied, **config}


def tower_with_defaults(text: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text tower's configuration, completed by its type's defaults and by what the file says outside it."""
    defaults = architectures().get(str(text.get("model_type")), {}).get("defaults", {})
    sizes = {name: defaults[name] for name in SIZE_FIELDS if name in defaults}
    outside = {name: outer[name] for name in ("tie_word_embeddings",) if name in outer}
    return with_defaults({**sizes, **outside, **text})


def shape(spec: ModelSpec) -> tuple[Any, ...]:
    """Return a key that two models share if all their tensors have the same sizes."""
    config = spec.config
    defaults = architectures().get(spec.model_type, {}).get("defaults", {})
    positions = spec.max_position_embeddings if spec.model_type in _LEARNED_POSITIONS else None
    fields = (json.dumps(config.get(name, defaults.get(name))) for name in SHAPE_FIELDS)
    return (
        spec.model_type,
        spec.hidden_size,
        spec.num_hidden_layers,
        spec.num_attention_heads,
        spec.num_key_value_heads,
        spec.head_dim,
        spec.intermediate_size,
        spec.vocab_size,
        spec.num_experts,
        positions,
        *fields,
    )
