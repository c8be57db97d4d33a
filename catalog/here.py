"""What a run is held against before it exists: this machine's GPUs, the model's modules, and where its weights are."""

import importlib
import json
from pathlib import Path

from huggingface_hub import constants

from catalog import local, machine, models
from specs import CatalogError, LorafitError
from specs.paths import cache, demo_model

compute_capabilities = machine.compute_capabilities

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""What transformers loads with ``use_safetensors``: ``SAFE_WEIGHTS_NAME`` and ``SAFE_WEIGHTS_INDEX_NAME`` in
transformers/utils/__init__.py."""
_NEEDED = {
    "config.json": ("config.json",),
    "safetensors weights": _WEIGHTS,
    "tokenizer": ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"),
}
"""What a folder must hold to be trained, and the files of which it has at least one."""
_POINTER = b"version https://git-lfs"
_WAY_OUT = "Choose a folder with config.json, safetensors weights and a tokenizer, or a Hub id"


def linear_modules(model: str) -> tuple[str, ...]:
    """Return the linear modules of a model; empty for one whose configuration or modules are not known."""
    try:
        return models.find(model).linear_modules
    except LorafitError:
        return ()


def task_types(model: str) -> tuple[str, ...]:
    """Return the tasks that a model can be trained for, by PEFT's types; empty for one that is not known."""
    try:
        return models.find(model).task_types
    except LorafitError:
        return ()


def model_folder(name: str) -> str:
    """Return the folder of a model that is named by it or its ``config.json``, or that is the demo's; else nothing."""
    try:
        file = local.config_file(name)
    except CatalogError:
        return str(Path(name).expanduser().resolve())
    if file is not None:
        return str(file.parent)
    demo = demo_model()
    is_demo = name in {demo.name, f"HuggingFaceTB/{demo.name}"} and (demo / "config.json").is_file()
    return str(demo) if is_demo else ""


def require_weights(model: str) -> None:
    """Refuse a model that cannot be trained wherever it lies: a folder without weights, or no name of a model.

    Raises:
        CatalogError: If it is neither a folder with weights and a tokenizer nor a Hub id.
    """
    folder = Path(model)
    if not folder.is_dir():
        if not models.is_hub_id(model):
            raise CatalogError("model", "must be a folder on this machine or a Hub id to be trained", model, _WAY_OUT)
        return
    for what, names in _NEEDED.items():
        if not any((folder / name).is_file() for name in names):
            raise CatalogError(local.shown(folder), f"has no {what}", None, _WAY_OUT)
    for file in _weight_files(folder):
        if not file.is_file():
            raise CatalogError(local.shown(folder), "lacks a file of its weights", file.name, "Fetch it again")
        if _is_pointer(file):
            rule = "is a pointer of Git LFS in place of weights"
            raise CatalogError(file.name, rule, None, f"Run git lfs pull in {folder.name}")


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder: one, or those that the index lists.

    Raises:
        CatalogError: If the index cannot be read.
    """
    single, index = (folder / name for name in _WEIGHTS)
    if single.is_file():
        return [single]
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted({Path(str(name)).name for name in listed})]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CatalogError(index.name, "must list the files of the weights", None, "Fetch it again") from error


def _is_pointer(file: Path) -> bool:
    """Return whether a file is what a clone without Git LFS leaves: a few lines that name the content.

    Source:
        https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def require_obtainable(model: str) -> None:
    """Refuse a model whose weights are neither here nor shown by the Hub, which is asked if need be.

    Raises:
        CatalogError: If it is such a model.
    """
    require_weights(model)
    if not Path(model).is_dir() and not _is_fetched(model):
        # huggingface_hub's network part is imported only when it is needed.
        importlib.import_module("catalog.hub").require_access(model)


def _is_fetched(name: str) -> bool:
    """Return whether weights of a Hub model lie in the folders of what was fetched."""
    stored = f"models--{name.replace('/', '--')}/snapshots"
    folders = (cache() / "hub", Path(constants.HF_HUB_CACHE))
    return any(next((hub / stored).glob(f"*/{file}"), None) for hub in folders for file in _WEIGHTS)
