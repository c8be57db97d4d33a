"""A ``config.json`` on this machine: found, read with a limit, and refused in one sentence where it cannot be used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs import CatalogError

LARGEST_BYTES = 2**20
"""The longest published config.json is under 100 KB; what is longer than this is no configuration."""


def config_file(text: str) -> Path | None:
    """Return the file that a text names, a folder standing for its ``config.json``; None where there is neither.

    Raises:
        CatalogError: If a folder holds no ``config.json``.
    """
    try:
        path = Path(text).expanduser()
        if not text or not path.exists():
            return None
        found = path / "config.json" if path.is_dir() else path
        if not found.is_file():
            raise CatalogError(shown(path), "holds no config.json", None, "Name the folder of a model or its file")
    except (OSError, ValueError, RuntimeError):
        return None
    return found.resolve()


def config_of(path: Path) -> Mapping[str, Any]:
    """Return the JSON object of a file, of which no more than ``LARGEST_BYTES`` is ever read.

    Raises:
        CatalogError: If the file cannot be read, is too long, or holds anything but one object of finite numbers.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise CatalogError(shown(path), "cannot be read", error.strerror, "Check its permissions") from error
    if len(raw) > LARGEST_BYTES:
        raise CatalogError(shown(path), "is longer than a config.json can be (1 MiB)", None, "Use the model's own file")
    try:
        config = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CatalogError(shown(path), "is not valid JSON", None, "Use the model's own config.json") from error
    if not isinstance(config, Mapping):
        raise CatalogError(shown(path), "must hold one JSON object", type(config).__name__, "Use the model's own file")
    return config


def refuse_unloadable(config: Mapping[str, Any], name: str) -> None:
    """Refuse what LoRAFit does not load: code that comes with a model, and weights that are already quantized.

    Raises:
        CatalogError: If the model brings its own code or its weights are quantized.
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
            "a checkpoint that is quantized already cannot be fine-tuned here",
            method if isinstance(method, str) else None,
            "Choose the 16-bit model it was made from; LoRAFit quantizes it while loading",
        )


def shown(path: Path) -> str:
    """Return the end of a path as it appears in a sentence."""
    text = "/".join(path.parts[-2:])
    return text if len(text) <= 80 else "…" + text[-79:]


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
