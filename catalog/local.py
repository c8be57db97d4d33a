"""A ``config.json`` on this machine: found, read up to a size limit, and refused in one sentence if unusable."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs import CatalogError

LARGEST_BYTES = 2**20
"""The longest published config.json is under 100 KB; anything longer than this is not a configuration."""

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

    Raises:
        CatalogError: If the file cannot be read, is too long, or holds anything but one object of finite numbers.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise CatalogError(shown(path), "cannot be read", error.strerror, "Check its permissions") from error
    if len(raw) > LARGEST_BYTES:
        raise CatalogError(shown(path), "is longer than a config.json can be (1 MiB)", None, _OWN_FILE)
    try:
        config = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CatalogError(shown(path), "is not valid JSON", None, _OWN_FILE) from error
    if not isinstance(config, Mapping):
        raise CatalogError(shown(path), "must hold one JSON object", type(config).__name__, _OWN_FILE)
    return config


def refuse_unloadable(config: Mapping[str, Any], name: str) -> None:
    """Refuse what LoRAFit does not load: models with their own code, and weights that are already quantized.

    Raises:
        CatalogError: If the model needs its own code or its weights are quantized.
    """
    if config.get("auto_map"):
        raise CatalogError(
            name, "needs its own code (trust_remote_code), which LoRAFit never runs", None, "Choose another model"
        )
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise CatalogError(
            f"{name}: quantization_config",
            "a checkpoint that is already quantized cannot be fine-tuned here",
            method if isinstance(method, str) else None,
            "Choose the 16-bit model it was made from; LoRAFit quantizes it while loading",
        )


def shown(path: Path) -> str:
    """Return the end of a path, for use in a message."""
    text = "/".join(path.parts[-2:])
    return text if len(text) <= 80 else "…" + text[-79:]


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
