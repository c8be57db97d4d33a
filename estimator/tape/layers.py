"""The layers of a model that an adapter may train: with the catalog, from the cache on disk, or built by the tracer."""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from estimator.tape import library
from estimator.tape.tracer_process import Progress
from specs import ModelSpec, TraceError
from specs.paths import cache
from specs.targets import Layers

LAYERS_OF = "layers_of"
"""The key of a question for layers; its value is the configuration."""
_DAMAGE = (OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class _Question:
    """A configuration of which the layers are wanted."""

    config_json: str

    @property
    def key(self) -> str:
        """A name for the answer's file."""
        return hashlib.sha256(f"{LAYERS_OF} {self.config_json}".encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Return the question as one line."""
        return json.dumps({LAYERS_OF: json.loads(self.config_json)})


def with_layers(model: ModelSpec, progress: Progress | None = None) -> ModelSpec:
    """Return a model with its layers, which are built from its configuration once and then kept on disk.

    One that the tracer cannot build is returned as it is: what is known of its type must do, as for its memory.

    Raises:
        LorafitError: If transformers does not know such a model.
    """
    # A head, which its task decides, is no target.
    if model.layers is not None or model.is_encoder or model.is_encoder_decoder:
        return model
    asked = _Question(model.config_json)
    try:
        return model.with_layers(_kept(asked) or _built(asked, progress or library.silent))
    except TraceError:
        return model


@lru_cache(maxsize=64)
def _kept(asked: _Question) -> Layers | None:
    """Return layers from disk; a damaged file counts as missing and is written again."""
    try:
        checksum, _, text = _file(asked).read_text(encoding="utf-8").partition("\n")
        return Layers.from_dict(json.loads(text)) if checksum == _checksum(text) else None
    except _DAMAGE:
        return None


def _built(asked: _Question, progress: Progress) -> Layers:
    text = library.answered(asked, progress)
    file = _file(asked)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
        part.replace(file)
    _kept.cache_clear()
    return Layers.from_dict(json.loads(text))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file(asked: _Question) -> Path:
    return cache() / "layers" / library.stamp() / f"{asked.key}.json"
