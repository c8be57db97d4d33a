"""The model to fine-tune, read from any transformers ``config.json``."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from specs.embeddings import Embedding, embedding_of
from specs.errors import SpecError
from specs.targets import Layers

# Other names that transformers' configurations use for the same thing; the first one present counts.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim", "emb_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    "num_attention_heads": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "decoder_attention_heads",
    ),
    "intermediate_size": (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "hidden_dim",
        "d_ff",
        "decoder_ffn_dim",
    ),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "head_dim": ("head_dim", "d_kv"),
    "num_experts": (
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_num_experts",
        "num_moe_experts",
        "ffn_config.moe_num_experts",
    ),
}

# Fields that say something of each layer, and so how many there are where the file does not count them. Nemotron-H
# writes a string with one sign a layer, and "|" between stages.
_PER_LAYER = ("layers_block_type", "hybrid_override_pattern", "block_configs", "layer_types")

# Where a file with several towers describes the one for text: transformers 5.23, ``PreTrainedConfig.get_text_config``;
# Qwen-Omni keeps it one level deeper.
_TOWERS = ("text_config", "thinker_config")

# Sizes that a file may give for each layer; the largest stands for the model.
_MAY_DIFFER = frozenset(
    {"intermediate_size", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "head_dim", "num_experts"}
)

# transformers 5.23, create_position_ids_from_input_ids: positions begin after that of padding, which is 1.
_POSITIONS_BEGIN_AT_2 = frozenset({"camembert", "roberta", "xlm-roberta", "xlm-roberta-xl"})

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


WITHOUT_ATTENTION = frozenset({"mamba2"})
"""The types of models all of whose layers are recurrent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One causal language model: the shapes that decide its memory, and the configuration they come from."""

    name: str
    """Catalog name or Hub id, file name, or a size such as ``7B``."""
    model_type: str
    """transformers' ``model_type``, such as ``llama``; of a model that also reads images, that of the whole."""
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
    """Parameters that hold all experts of a layer as one tensor, such as ``experts.down_proj``: they are quantized to 4
    bit but not to 8 bit, and LoRA reaches them only through ``target_parameters``."""
    auto_class: str = "AutoModelForCausalLM"
    """The class of transformers that loads the model to continue text: with all of its towers if it has any."""
    task_types: tuple[str, ...] = ()
    """The tasks, by PEFT's types, that transformers trains such a model for; empty if unknown."""
    layers: Layers | None = field(default=None, repr=False)
    """Every layer that an adapter may train, as a build of this configuration has them; None until it was built."""
    config_json: str = field(default="{}", repr=False)
    """The configuration as canonical JSON. Infinity is written as transformers 5 does, ``{"__float__": "Infinity"}``,
    since JSON has no such number."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the configuration was read, one sentence each."""
    source: str = ""
    """Where the configuration and the parameter count come from."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as in transformers' ``config.json``."""
        loaded: dict[str, Any] = json.loads(self.config_json)
        return loaded

    def with_layers(self, layers: Layers) -> Self:
        """Return the model with what a build of its configuration has shown."""
        return replace(
            self,
            layers=layers,
            linear_modules=layers.names,
            expert_parameters=layers.parameters,
            num_experts=layers.num_experts,
            num_params=layers.num_params or self.num_params,
        )

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the configuration that describes what text passes through: all of it in a model of text alone."""
        return dict(text_tower(self.config))

    @property
    def embedding(self) -> Embedding | None:
        """How a model that was made for embeddings makes one vector of a text; None for any other."""
        return embedding_of(self.config)

    @property
    def expert_size(self) -> int:
        """Width of one expert's feed-forward layer, or of the model's if it has no experts."""
        width = self.text_config.get("moe_intermediate_size") or self.intermediate_size
        return int(max(width) if isinstance(width, list) else width)

    @property
    def is_encoder(self) -> bool:
        """Whether each token sees those after it too, as in BERT: such a model reads text and writes none."""
        return bool(self.task_types) and {"CAUSAL_LM", "SEQ_2_SEQ_LM"}.isdisjoint(self.task_types)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads a text and a decoder writes another, as in T5."""
        return "SEQ_2_SEQ_LM" in self.task_types

    @property
    def has_attention(self) -> bool:
        """Whether any of its layers is attention."""
        return self.model_type not in WITHOUT_ATTENTION

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
        plain = _plain(config, name)
        text = text_tower(plain)
        model_type = plain.get("model_type") or text.get("model_type")
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
            num_hidden_layers=_size(text, "num_hidden_layers", name, default=_listed_layers(text)),
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(text, heads, name),
            head_dim=_size(text, "head_dim", name, default=max(1, hidden_size // heads)),
            intermediate_size=_size(text, "intermediate_size", name, default=4 * hidden_size),
            vocab_size=_size(text, "vocab_size", name),
            max_position_embeddings=_longest(text, model_type, name),
            tie_word_embeddings=bool(text.get("tie_word_embeddings", plain.get("tie_word_embeddings", False))),
            num_experts=_size(text, "num_experts", name, default=0),
            config_json=json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False),
            source=source,
        )


def text_tower(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that describes the text model: all of it where there is no other."""
    inner = next((config[key] for key in _TOWERS if isinstance(config.get(key), dict)), None)
    return config if inner is None else text_tower(inner)


def _plain(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration as plain JSON."""
    if not isinstance(config, Mapping):
        raise SpecError(name, "config.json must be one JSON object", type(config).__name__)
    for key in _TOWERS:
        if not isinstance(config.get(key, {}), Mapping):
            raise SpecError(f"{name}: {key}", "must be a JSON object", type(config[key]).__name__)
    try:
        plain: dict[str, Any] = json.loads(json.dumps(_strict(config), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(name, "config.json must be plain JSON", None, "Use the model's own config.json") from error
    return plain


def _strict(value: Any) -> Any:
    """Return a value with the numbers that JSON lacks in transformers' own spelling.

    Source:
        transformers 5.23, configuration_utils.py, ``_encode_special_floats``.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return value


def _size(config: Mapping[str, Any], field_name: str, name: str, default: int | None = None) -> int:
    """Return one whole number of a configuration under any of its names, checked against its range."""
    for spelling in _SPELLINGS.get(field_name, (field_name,)):
        value = _value(config, spelling)
        if field_name in _MAY_DIFFER and isinstance(value, list) and value:
            # A pruned model may have layers without any.
            value = max(_checked(part, field_name, f"{name}: {spelling}", 0) for part in value)
        if value is not None:
            return _checked(value, field_name, f"{name}: {spelling}", default)
    if default is None:
        raise SpecError(f"{name}: {field_name}", "is missing", None, "Use the model's own config.json")
    return default


def _value(config: Mapping[str, Any], spelling: str) -> Any:
    """Return a field, also one inside another such as ``ffn_config.moe_num_experts``; None if there is none."""
    outer, _, inner = spelling.partition(".")
    value = config.get(outer)
    return value if not inner else value.get(inner) if isinstance(value, Mapping) else None


def _checked(value: Any, field_name: str, subject: str, default: int | None) -> int:
    """Return a whole number within its range, which begins with 0 only where the default is 0."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool):
        raise SpecError(subject, "must be a whole number", value, "Use the model's own config.json")
    least = 0 if default == 0 else 1
    if not least <= value <= _LARGEST[field_name]:
        raise SpecError(subject, f"must lie between {least} and {_LARGEST[field_name]:,}", value)
    return int(value)


def _listed_layers(config: Mapping[str, Any]) -> int | None:
    """Return the number of layers that a file describes one by one; None if it does not."""
    for field_name in _PER_LAYER:
        value = config.get(field_name)
        if isinstance(value, list | str) and value:
            return len(value.replace("|", "") if isinstance(value, str) else value)
    return None


def _longest(config: Mapping[str, Any], model_type: str, name: str) -> int | None:
    """Return the longest sequence that a model was made for; RoBERTa's table of positions has two more."""
    found = _size(config, "max_position_embeddings", name, default=0)
    return (found - 2 if model_type in _POSITIONS_BEGIN_AT_2 and found > 2 else found) or None


def _key_value_heads(config: Mapping[str, Any], heads: int, name: str) -> int:
    """Return the number of key/value heads; Falcon uses ``multi_query`` for it."""
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    kv_heads = _size(config, "num_key_value_heads", name, default=_size(config, "num_kv_heads", name, default=heads))
    if heads % kv_heads:
        raise SpecError(f"{name}: num_key_value_heads", f"must divide num_attention_heads ({heads})", kv_heads)
    return kv_heads
