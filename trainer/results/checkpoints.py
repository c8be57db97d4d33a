"""A run's checkpoints on disk: which are complete, which is the newest, and how many are kept."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from specs import MIB
from trainer.files import move, scratch_folder
from trainer.runs.contract import CHECKPOINTS

KEPT = 2
"""How many checkpoints are kept: the newest, and the one before it in case the newest is damaged."""

_SMALL_FILES_BYTES = 32 * MIB
"""Tokenizer, states of the random generators and the scheduler, configurations."""

_NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
OPTIMIZER, SCHEDULER, SCALER = "optimizer.safetensors", "scheduler.safetensors", "scaler.safetensors"
_BEFORE = MappingProxyType({OPTIMIZER: "optimizer.pt", SCHEDULER: "scheduler.pt", SCALER: "scaler.pt"})
"""The names of these files in checkpoints of 0.1.0, which transformers wrote; they are read without running code."""


def newest(run_folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return next(iter(_checkpoints(run_folder)), None)


def saved_steps(run_folder: Path) -> list[int]:
    """Return the steps of a run's complete checkpoints, newest first."""
    return [int(folder.name.rpartition("-")[2]) for folder in _checkpoints(run_folder)]


def folder_of(run_folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint, whether or not it was kept."""
    return run_folder / CHECKPOINTS / f"checkpoint-{step}"


@contextmanager
def written(run_folder: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a folder to write ``checkpoint-N`` into; then move that in place and delete older ones except ``keep``."""
    home = run_folder / CHECKPOINTS
    home.mkdir(exist_ok=True)
    with scratch_folder(run_folder) as scratch:
        yield scratch
        for folder in scratch.glob("checkpoint-*"):
            move(folder, home / folder.name)
    kept = [*_checkpoints(run_folder)[:KEPT], keep]
    for old in home.iterdir():
        if old not in kept:
            shutil.rmtree(old)


def random_numbers(checkpoint: Path, rank: int) -> Path:
    """Return the file of a checkpoint with the states of one process's random numbers."""
    return checkpoint / f"rng_state_{rank}.safetensors"


def to_load(folder: str, name: str) -> Path:
    """Return the file of a checkpoint with the state of this name, also of a checkpoint of 0.1.0."""
    checkpoint = Path(folder)
    return next((path for path in (checkpoint / name, checkpoint / _BEFORE[name]) if path.exists()), checkpoint / name)


def random_numbers_to_load(folder: str, rank: int) -> Path:
    """Return the file with one process's random numbers, also of a checkpoint of 0.1.0."""
    checkpoint = Path(folder)
    now = random_numbers(checkpoint, rank)
    before = (checkpoint / f"rng_state_{rank}.pth", checkpoint / "rng_state.pth")
    return next((path for path in (now, *before) if path.exists()), now)


def trained_bytes(model: Any) -> int:
    """Return roughly what a checkpoint takes: trained weights, two 32-bit optimizer states for each, and small files.

    AdaLoRA also keeps two means of each weight's importance, in the weight's dtype.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    copies = 3 if any(".lora_E." in name for name in trained) else 1
    each = (parameter.numel() * (copies * parameter.element_size() + 8) for parameter in trained.values())
    return sum(each) + _SMALL_FILES_BYTES


def _checkpoints(run_folder: Path) -> list[Path]:
    """Return the complete checkpoints, newest first."""
    found = {
        int(match[1]): folder
        for folder in (run_folder / CHECKPOINTS).glob("checkpoint-*")
        if (match := _NAME.fullmatch(folder.name)) and is_complete(folder)
    }
    return [found[step] for step in sorted(found, reverse=True)]


def is_complete(folder: Path) -> bool:
    """Return whether every file of a checkpoint is complete; a crash can truncate files after the rename."""
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
        files = {path.name for path in folder.glob("*.safetensors")}
        for name in files:
            with safe_open(folder / name, "numpy"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    if {OPTIMIZER, SCHEDULER, random_numbers(folder, 0).name} < files:
        return True
    # Torch saves zip archives, whose table of contents is at the end.
    before = {path.name for path in folder.glob("*.pt*") if zipfile.is_zipfile(path)}
    return bool(files) and {_BEFORE[OPTIMIZER], _BEFORE[SCHEDULER]} < before
