"""Which fields of a ``config.json`` decide tensor shapes, and when two configurations have the same shapes."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from specs import TASK_TYPES, ModelSpec
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
    return {**known, **_encoders()["architectures"]}


def task_types(model_type: str) -> tuple[str, ...]:
    """Return the tasks, by PEFT's types, that transformers trains a type of model for."""
    known = tuple(task for task, types in _encoders()["tasks"].items() if model_type in types)
    if "SEQ_2_SEQ_LM" in known:  # its decoder alone is another model
        return ("SEQ_2_SEQ_LM",)
    return known if model_type in _encoders()["architectures"] else ("CAUSAL_LM", *known)


def task_types_of(model_type: str, *, embeds: bool) -> tuple[str, ...]:
    """Return the tasks of a model, its own first: one that was made for embeddings is trained for these."""
    known = task_types(model_type)
    return tuple(sorted(known, key=lambda name: not TASK_TYPES[name].embeds)) if embeds else known


@functools.cache
def _encoders() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((assets() / "encoders.json").read_text(encoding="utf-8"))
    return found


def facts(spec: ModelSpec) -> Mapping[str, Any]:
    """Return what transformers builds by default for the part of a model that text passes through."""
    return _text_facts(spec.text_config, spec.config)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what it leaves to the defaults of its type: whether the head is tied, and sizes.

    Only the text tower of a file with several may leave out its sizes, as Gemma 3's do.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return {**config, "text_config": _tower_with_defaults(text, config)}
    return _with_tied_head(config, architectures().get(str(config.get("model_type")), {}))


def _tower_with_defaults(text: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text tower's configuration, completed by its type's defaults and by what the file says outside it."""
    known = _text_facts(text, outer)
    sizes = {name: known["defaults"][name] for name in SIZE_FIELDS if name in known.get("defaults", {})}
    outside = {name: outer[name] for name in ("tie_word_embeddings",) if name in outer}
    return _with_tied_head({**sizes, **outside, **text}, known)


def _text_facts(text: Mapping[str, Any], outer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of a text tower's own type, or of the whole model's where the tower is part of no other."""
    whole = architectures().get(str(outer.get("model_type")), {})
    own = architectures().get(str(text.get("model_type") or whole.get("text")), {})
    return own if own.get("linear_modules") else whole


def _with_tied_head(config: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    defaults = known.get("defaults", {})
    tied = {"tie_word_embeddings": defaults["tie_word_embeddings"]} if "tie_word_embeddings" in defaults else {}
    return {**tied, **config}


def shape(spec: ModelSpec) -> tuple[Any, ...]:
    """Return a key that two models share if all their tensors have the same sizes."""
    config = spec.text_config
    defaults = facts(spec).get("defaults", {})
    towers = {name: value for name, value in spec.config.items() if name.endswith("_config") and name != "text_config"}
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
        json.dumps(towers, sort_keys=True) if config != spec.config else "",
        *fields,
    )
