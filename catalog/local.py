"""A ``config.json`` on this machine: found, read up to a size limit, and refused in one sentence if unusable."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs import MIB, CatalogError
from specs.embeddings import with_embedding
from specs.stored import EXPANDED, PACKAGES, stored_in

LARGEST_BYTES = 8 * MIB
"""Most published files are under 100 KB, but one with the scales of a quantized mixture takes over 1 MiB."""

QUANTIZATION_FILE = "hf_quant_config.json"
"""Where ModelOpt says how the weights beside it are quantized: NVIDIA's FP8 and NVFP4 models say it nowhere else."""

_OWN_FILE = "Use the model's own config.json"


def config_file(text: str) -> Path | None:
    """Return the file that a text names, or the ``config.json`` of the folder that it names; None if neither exists.

    Raises:
        CatalogError: If a folder has no ``config.json``.
    """
    try:
        path = Path(text).expanduser()
        if not text or not path.exists():
            return None
        found = path / "config.json" if path.is_dir() else path
        if not found.is_file():
            raise CatalogError(shown(path), "has no config.json", None, "Give the folder of a model or its config.json")
    except (OSError, ValueError, RuntimeError):
        return None
    return found.resolve()


def config_of(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file, of which at most ``LARGEST_BYTES`` are read.

    Infinity and NaN are read as Python and transformers read them, although they are no JSON.

    Raises:
        CatalogError: If the file cannot be read, is too long, or holds anything but one object.
    """
    config = _loaded(path)
    if not isinstance(config, Mapping):
        raise CatalogError(shown(path), "must hold one JSON object", type(config).__name__, _OWN_FILE)
    return config


def json_of(path: Path) -> Any:
    """Return what a file holds as JSON, or None if there is none.

    Raises:
        CatalogError: If it cannot be read, is too long, or is no JSON.
    """
    return _loaded(path) if path.is_file() else None


def _loaded(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise CatalogError(shown(path), "cannot be read", error.strerror, "Check its permissions") from error
    if len(raw) > LARGEST_BYTES:
        limit = f"is longer than a config.json can be ({LARGEST_BYTES // MIB} MiB)"
        raise CatalogError(shown(path), limit, None, _OWN_FILE)
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CatalogError(shown(path), "is not valid JSON", None, _OWN_FILE) from error


def model_config(path: Path) -> Mapping[str, Any]:
    """Return the configuration in a file, with what files beside it say of quantization and of embeddings.

    Raises:
        CatalogError: If one of the files cannot be used.
    """
    beside = path.with_name(QUANTIZATION_FILE)
    config = with_quantization(config_of(path), config_of(beside) if beside.is_file() else {})
    return with_embedding(config, lambda name: json_of(path.parent / name))


def with_quantization(config: Mapping[str, Any], modelopt: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with the ``quantization_config`` that ModelOpt's file beside it or its text tower names.

    Source:
        TensorRT-Model-Optimizer, export of Hugging Face checkpoints: ``{"quantization": {"quant_algo": "NVFP4"}}``.
    """
    text, algorithm = config.get("text_config"), modelopt.get("quantization")
    nested = text.get("quantization_config") if isinstance(text, Mapping) else None
    # A file that names no algorithm quantizes keys and values alone, while text is written.
    named = isinstance(algorithm, Mapping) and algorithm.get("quant_algo")
    if config.get("quantization_config") or not (nested or named):
        return config
    return {**config, "quantization_config": nested or {"quant_method": "modelopt", **modelopt["quantization"]}}


def refuse_quantized(config: Mapping[str, Any], name: str) -> None:
    """Refuse weights in a format that neither transformers expands nor an adapter can be trained on.

    Raises:
        CatalogError: Names the format, and what to install or choose.
    """
    said, kind = config.get("quantization_config"), stored_in(config)
    if kind == "unknown" or (kind == "bitsandbytes" and isinstance(said, Mapping)):
        rule = "must say how the weights are stored: quant_method, and with bitsandbytes load_in_4bit or load_in_8bit"
        raise CatalogError(f"{name}: quantization_config", rule, said, _OWN_FILE)
    missing = [package for package in PACKAGES.get(kind, ()) if importlib.util.find_spec(package) is None]
    if missing:
        rule = f"weights stored in {kind.upper()} need {' and '.join(missing)}"
        raise CatalogError(name, rule, None, f"Run pip install {' '.join(missing)}, or choose the 16-bit model")
    if kind not in {"", "4bit", "8bit", *EXPANDED, *PACKAGES}:
        raise CatalogError(
            f"{name}: quantization_config",
            "a checkpoint in this format is already quantized and cannot be fine-tuned",
            kind,
            "Choose the 16-bit model it was made from; LoRAFit quantizes it while loading",
        )


def shown(path: Path) -> str:
    """Return the end of a path, for use in a message."""
    text = str(Path(*path.parts[-2:]))
    return text if len(text) <= 80 else "…" + text[-79:]
