"""What a model's folder says of its embeddings: ``modules.json`` of sentence-transformers, and the files it names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from specs.errors import SpecError

KEY = "sentence_transformers"
"""Where a configuration keeps it."""

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
"""The files at the top of the folder."""

_READ = frozenset({"Transformer", "Normalize"})
"""Modules that hold no choice of their own."""
_LEGACY: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What files before sentence-transformers 5 call the poolings: sentence_transformer/modules/pooling.py (6.2)."""

Read = Callable[[str], Any]
"""Returns what a file of the folder holds as JSON; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A layer behind the pooling, as EmbeddingGemma has two."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = ""
    """The class of its activation function; empty without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How a model makes one vector of a text."""

    pooling_mode: str = ""
    """How the vectors of tokens become one; empty if the folder does not say."""
    dense: tuple[Dense, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What stands before a text, by its kind."""
    normalizes: bool = False
    """Whether its vectors are brought to length 1."""
    unknown: tuple[str, ...] = ()
    """Modules that LoRAFit does not build."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        layers = [[one.in_features, one.out_features, one.bias, one.activation] for one in self.dense]
        values = {"pooling_mode": self.pooling_mode, "dense": layers, "prompts": dict(self.prompts)}
        return {**values, "normalizes": self.normalizes, "unknown": [*self.unknown]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read it back.

        Raises:
            SpecError: If it is something else.
        """
        try:
            return cls(
                pooling_mode=str(values.get("pooling_mode", "")),
                dense=tuple(
                    Dense(in_features=int(one), out_features=int(other), bias=bool(bias), activation=str(activation))
                    for one, other, bias, activation in values.get("dense", ())
                ),
                prompts={str(name): str(text) for name, text in dict(values.get("prompts", {})).items()},
                normalizes=bool(values.get("normalizes", False)),
                unknown=tuple(map(str, values.get("unknown", ()))),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise SpecError(KEY, "must be as LoRAFit writes it", None, "Leave it out of config.json") from error


def embedding_of(config: Mapping[str, Any]) -> Embedding | None:
    """Return what a configuration keeps of it; None for a model that is no embedding model."""
    found = config.get(KEY)
    return Embedding.from_dict(found) if isinstance(found, Mapping) else None


def read(file: Read) -> Embedding | None:
    """Return what the files of a folder say; None where there is no ``modules.json``.

    Source:
        sentence-transformers 6.2, base/model.py, ``_load_config_modules``.
    """
    listed = file(MODULES)
    if not isinstance(listed, list):
        return None
    pooling, dense, unknown = "", list[Dense](), list[str]()
    kinds = [str(entry.get("type", "")).rpartition(".")[2] if isinstance(entry, Mapping) else "?" for entry in listed]
    for kind, entry in zip(kinds, listed, strict=True):
        said = _config(file, entry) if kind in {"Pooling", "Dense"} else {}
        if kind == "Pooling":
            pooling, more = _pooling(said)
            unknown += more
        elif kind == "Dense":
            dense += _dense(said)
            unknown += ["Dense with a residual"] if said.get("use_residual") else []
        elif kind not in _READ:
            unknown.append(kind)
    prompts = file(PROMPTS)
    named = prompts.get("prompts") if isinstance(prompts, Mapping) else {}
    kept = {str(name): str(text) for name, text in (named if isinstance(named, Mapping) else {}).items() if text}
    return Embedding(
        pooling_mode=pooling,
        dense=tuple(dense),
        prompts=kept,
        normalizes="Normalize" in kinds,
        unknown=tuple(unknown),
    )


def with_embedding(config: Mapping[str, Any], file: Read) -> Mapping[str, Any]:
    """Return a configuration with what the files beside it say of its embeddings."""
    found = read(file)
    return config if found is None else {**config, KEY: found.to_dict()}


def _config(file: Read, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    folder = str(entry.get("path", ""))
    if not folder.replace("_", "").isalnum():  # no path leads out of the folder
        raise SpecError(f"{MODULES}: path", "must name a folder beside it", folder, "Use the model's own files")
    found = file(f"{folder}/config.json")
    return found if isinstance(found, Mapping) else {}


def _pooling(said: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """Return the pooling, and what of it is not built: several at once, and prompts that are left out of it."""
    mode = said.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [*(mode or ())]
    modes = modes or [name for key, name in _LEGACY.items() if said.get(key)]
    unknown = ["Pooling of several kinds"] if len(modes) > 1 else []
    unknown += ["Pooling without the prompt"] if said.get("include_prompt") is False else []
    return (str(modes[0]) if modes else "mean"), unknown


def _dense(said: Mapping[str, Any]) -> list[Dense]:
    sizes = (said.get("in_features"), said.get("out_features"))
    if not all(isinstance(size, int) and 0 < size <= 1_000_000 for size in sizes):
        raise SpecError("Dense: in_features and out_features", "must be whole numbers", str(sizes), "Use its own files")
    activation = str(said.get("activation_function", "")).rpartition(".")[2]
    return [
        Dense(
            in_features=int(said["in_features"]),
            out_features=int(said["out_features"]),
            bias=bool(said.get("bias", True)),
            activation="" if activation == "Identity" else activation,
        )
    ]
