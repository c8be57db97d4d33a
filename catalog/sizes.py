"""A reference shape for a model of which only the size is known: Llama-like, between the shipped Llamas."""

import bisect
import functools
import json
import math
import re
from typing import Any

from specs import CatalogError, ModelSpec
from specs.paths import assets

SOURCE = "reference shape of this size, interpolated between SmolLM2 and Llama 3; a real model of this size may differ"

_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,9})?|\.\d{1,9})\s*(m|million|b|bn|billion|t|trillion)(\s+(parameters|params))?")
_BILLIONS = {"m": 1e-3, "million": 1e-3, "b": 1.0, "bn": 1.0, "billion": 1.0, "t": 1e3, "trillion": 1e3}
_LEAST, _MOST = 0.02, 2000.0

# Width and depth of the sizes in between follow these models; their configurations are in assets/models.json.
_ANCHORS = (
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B",
)
_MULTIPLE_OF_INTERMEDIATE = 16


def billions(text: str) -> float | None:
    """Return the billions of parameters in a text such as ``7B`` or ``350 million``; None if it is not a size.

    Raises:
        CatalogError: If no model is so small or so large.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    size = float(match[1]) * _BILLIONS[match[2]]
    if not _LEAST <= size <= _MOST:
        raise CatalogError("model size", f"must lie between {_LEAST}B and {_MOST:.0f}B", text.strip())
    return size


def reference_config(size: float) -> dict[str, Any]:
    """Return the configuration of a Llama-like model with this many billion parameters, to within 1 %."""
    target = size * 1e9
    family = _family(target)
    hidden_size = _rounded_width(_interpolated("hidden_size", target))
    layers = max(2, round(_interpolated("num_hidden_layers", target)))
    head_dim = 128 if hidden_size >= 3072 else 64
    heads = hidden_size // head_dim
    key_value_heads = max(n for n in range(1, 9) if heads % n == 0)
    embeddings = family["vocab_size"] * hidden_size * (1 if family["tie_word_embeddings"] else 2)
    attention = 2 * hidden_size * hidden_size + 2 * hidden_size * key_value_heads * head_dim
    per_layer = (target - embeddings - hidden_size) / layers - attention - 2 * hidden_size
    width = per_layer / (3 * hidden_size * _MULTIPLE_OF_INTERMEDIATE)
    return {
        "model_type": "llama",
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "intermediate_size": _MULTIPLE_OF_INTERMEDIATE * max(1, round(width)),
        **family,
    }


def llama_params(spec: ModelSpec) -> int:
    """Return the exact number of parameters of a ``llama`` model, a tied head counted once."""
    config = spec.text_config
    h, f = spec.hidden_size, spec.intermediate_size
    q, kv = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    attention = 2 * h * q + 2 * h * kv + (q + 2 * kv + h if config.get("attention_bias") else 0)
    feed_forward = 3 * h * f + (2 * f + h if config.get("mlp_bias") else 0)
    embeddings = spec.vocab_size * h * (1 if spec.tie_word_embeddings else 2)
    return embeddings + spec.num_hidden_layers * (attention + feed_forward + 2 * h) + h


def _family(target: float) -> dict[str, Any]:
    """Return vocabulary, tying and context for a size: SmolLM2's under 0.7B, Llama 3.2's under 5B, then Llama 3.1's."""
    anchor = _ANCHORS[0] if target < 0.7e9 else _ANCHORS[2] if target < 5e9 else _ANCHORS[4]
    config = _anchors()[anchor]["config"]
    return {name: config[name] for name in ("vocab_size", "tie_word_embeddings", "max_position_embeddings")}


def _interpolated(field: str, target: float) -> float:
    """Return a field at a size, linear in logarithms between the anchors and beyond."""
    sizes = [math.log(entry["num_params"]) for entry in _anchors().values()]
    values = [math.log(entry["config"][field]) for entry in _anchors().values()]
    at = min(max(bisect.bisect(sizes, math.log(target)), 1), len(sizes) - 1)
    slope = (values[at] - values[at - 1]) / (sizes[at] - sizes[at - 1])
    return math.exp(values[at - 1] + slope * (math.log(target) - sizes[at - 1]))


def _rounded_width(width: float) -> int:
    """Return a width that divides into whole heads, rounded more coarsely for wider models, as published ones are."""
    multiple = next(step for least, step in ((6144, 1024), (3072, 512), (0, 64)) if width >= least)
    return max(multiple, multiple * round(width / multiple))


@functools.cache
def _anchors() -> dict[str, dict[str, Any]]:
    entries = json.loads((assets() / "models.json").read_text(encoding="utf-8"))["models"]
    known = {entry["name"]: entry for entry in entries}
    return {name: known[name] for name in _ANCHORS}
