"""The demo model's real weights, read from its safetensors file without torch."""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from specs import CatalogError, paths

MOST_ROWS = 1024
"""How many rows of a matrix are read; enough for a histogram, and quick."""


@functools.cache
def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a model folder, by name.

    Raises:
        CatalogError: If the folder has no readable model.safetensors.
    """
    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CatalogError("demo model", "is not on this machine", None, "Fetch it with make run") from error


@functools.lru_cache(maxsize=8)
def matrix(folder: Path, name: str) -> NDArray[np.float32]:
    """Return the first rows of one weight matrix.

    Raises:
        CatalogError: If the folder has no such matrix.
    """
    if name not in shapes(folder):
        raise CatalogError("weight matrix", "must be one of the demo model's", name)
    with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
        return np.asarray(tensors.get_slice(name)[:MOST_ROWS], dtype=np.float32)


def demo() -> Path:
    """Return the demo model's folder."""
    return paths.demo_model()
