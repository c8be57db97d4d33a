"""The model to fine-tune, read from any transformers ``config.json``."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from specs.errors import SpecError

# Other names that transformers' configurations use for the same thing; the first one present counts.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}

# Two orders of magnitude above any published model: anything larger is a broken or hostile file.
_LARGEST: Mapping[str, int] = {
    "hidden_size": 1_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 10**10,
    "num_experts": 100_000,
    "head_dim": 100_000,
    "num_kv_heads": 100_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One causal language model: the shapes that decide its memory, and the configuration they come from."""

    name: str
    """Catalog name or Hub id, file name, or a size such as ``7B``."""
    model_type: str
    """transformers' ``model_type``, such as ``llama``."""
    hidden_size: int
    """Width of the residual stream."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Fewer than ``num_attention_heads`` under grouped-query attention."""
    head_dim: int
    intermediate_size: int
    """Width of the feed-forward layer; in some mixtures, of one expert."""
    vocab_size: int
    max_position_embeddings: int | None = None
    """The longest sequence the model was made for, in tokens; None if the configuration does not say."""
    tie_word_embeddings: bool = False
    """Whether lm_head shares the embedding's weights."""
    num_experts: int = 0
    """Experts per layer; 0 for a dense model."""
    num_params: int | None = None
    """Exact number of parameters, tied weights counted once; None until they are counted."""
    linear_modules: tuple[str, ...] = ()
    """Last part of the names of the linear modules that LoRA may target, such as ``q_proj``; empty if unknown."""
    expert_parameters: tuple[str, ...] = ()
    """Parameters that hold all experts of a layer as one tensor, such as ``experts.down_proj``: bitsandbytes leaves
    them in 16-bit, and LoRA reaches them only through ``target_parameters``."""
    config_json: str = field(default="{}", repr=False)
    """The configuration as canonical JSON; for a multimodal model, that of its text tower."""
    source: str = ""
    """Where the configuration and the parameter count come from."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as in transformers' ``config.json``."""
        loaded: dict[str, Any] = json.loads(self.config_json)
        return loaded

    @property
    def is_moe(self) -> bool:
        """Whether feed-forward layers are mixtures of experts."""
        return self.num_experts > 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str, source: str = "") -> Self:
        """Read the shapes out of a ``config.json``.

        Raises:
            SpecError: If a field that decides shapes is missing, has the wrong type, or is out of range.
        """
        text = _text_tower(config, name)
        model_type = text.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            raise SpecError(
                f"{name}: model_type", "must name the architecture", model_type, "Use the model's own config.json"
            )
        hidden_size = _size(text, "hidden_size", name)
        heads = _size(text, "num_attention_heads", name)
        return cls(
            name=name,
            model_type=model_type,
            hidden_size=hidden_size,
            num_hidden_layers=_size(text, "num_hidden_layers", name),
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(text, heads, name),
            head_dim=_size(text, "head_dim", name, default=max(1, hidden_size // heads)),
            intermediate_size=_size(text, "intermediate_size", name, default=4 * hidden_size),
            vocab_size=_size(text, "vocab_size", name),
            max_position_embeddings=_size(text, "max_position_embeddings", name, default=0) or None,
            tie_word_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            num_experts=_size(text, "num_experts", name, default=0),
            config_json=json.dumps(text, sort_keys=True, separators=(",", ":")),
            source=source,
        )


def _text_tower(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the text model's part of a configuration; refuse anything but plain JSON with finite numbers."""
    if not isinstance(config, Mapping):
        raise SpecError(name, "config.json must be one JSON object", type(config).__name__)
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise SpecError(f"{name}: text_config", "must be a JSON object", type(text).__name__)
    try:
        json.dumps(text, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            name, "config.json must be plain JSON with finite numbers", None, "Use the model's own config.json"
        ) from error
    return dict(text)


def _size(config: Mapping[str, Any], field_name: str, name: str, default: int | None = None) -> int:
    """Return one whole number of a configuration under any of its names, checked against its range."""
    for spelling in _SPELLINGS.get(field_name, (field_name,)):
        value = config.get(spelling)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or math.floor(value) != value:
            raise SpecError(f"{name}: {spelling}", "must be a whole number", value, "Use the model's own config.json")
        least = 0 if default == 0 else 1
        if not least <= value <= _LARGEST[field_name]:
            raise SpecError(f"{name}: {spelling}", f"must lie between {least} and {_LARGEST[field_name]:,}", value)
        return int(value)
    if default is None:
        raise SpecError(f"{name}: {field_name}", "is missing", None, "Use the model's own config.json")
    return default


def _key_value_heads(config: Mapping[str, Any], heads: int, name: str) -> int:
    """Return the number of key/value heads; Falcon uses ``multi_query`` for it."""
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    kv_heads = _size(config, "num_key_value_heads", name, default=_size(config, "num_kv_heads", name, default=heads))
    if heads % kv_heads:
        raise SpecError(f"{name}: num_key_value_heads", f"must divide num_attention_heads ({heads})", kv_heads)
    return kv_heads
