"""Where the tokenizer of a model lies on this machine, without asking anybody for it."""

from pathlib import Path

from huggingface_hub import constants

from catalog import local
from specs import CatalogError
from specs.paths import cache, demo_model

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What is read of a tokenizer, the file that it must have first."""

BYTES_PER_WORD = 72
"""Bytes of ``tokenizer.json`` for a word of the vocabulary: 3,522,871 for SmolLM2's 49,152."""


def folder(name: str) -> Path | None:
    """Return the folder with a model's own tokenizer, or None where it is not on this machine.

    Args:
        name: A folder or its ``config.json``, the demo model, or a Hub id whose tokenizer was fetched.
    """
    return next((found for found in _candidates(name.strip()) if (found / FILES[0]).is_file()), None)


def _candidates(name: str) -> list[Path]:
    try:
        file = local.config_file(name)
    except CatalogError:
        return [Path(name).expanduser()]
    if file is not None:
        return [file.parent]
    found = [demo_model()] if name == f"HuggingFaceTB/{demo_model().name}" else []
    if name.count("/") != 1 or ".." in name:
        return found
    stored = f"models--{name.replace('/', '--')}"
    for hub in (cache() / "hub", Path(constants.HF_HUB_CACHE)):
        found += sorted((hub / stored / "snapshots").glob("*"), key=lambda path: -path.stat().st_mtime)
    return found
