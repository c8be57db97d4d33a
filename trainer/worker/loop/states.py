"""States of optimizers, schedulers and random numbers in safetensors: unlike a pickle, reading them runs no code.

A state is nested dictionaries, lists and tuples of tensors and plain values. The tensors are stored as such, all else
as JSON in the metadata of the file.
"""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.trainer_pt_utils import safe_globals

from specs import RunError

_TREE = "state"
_PICKLES = {".pt", ".pth"}


def save(state: Any, path: Path) -> None:
    """Write a state.

    Raises:
        TypeError: If it contains anything but tensors, arrays and plain values.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _packed(state, tensors, {})
    save_file(tensors, path, metadata={_TREE: json.dumps(tree)})


def load(path: Path) -> Any:
    """Return a state that was written by ``save``, or by transformers for 0.1.0, with its tensors in main memory.

    Raises:
        RunError: If it was not, or holds anything but tensors, arrays and plain values.
    """
    try:
        if path.suffix in _PICKLES:
            with safe_globals():
                return torch.load(path, map_location="cpu", weights_only=True)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return _unpacked(json.loads(file.metadata()[_TREE]), tensors)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        way_out = f"Delete {path.parent.name} and resume the run from the checkpoint before"
        raise RunError(str(path), "holds no state of a run", type(error).__name__, way_out) from error


def _packed(value: Any, tensors: dict[str, torch.Tensor], names: dict[Any, str]) -> Any:
    """Return a value as JSON knows it: a container or tensor as a list that begins with its kind."""
    if isinstance(value, dict):
        return ["dict", *([_packed(key, tensors, names), _packed(each, tensors, names)] for key, each in value.items())]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_packed(each, tensors, names) for each in value)]
    if isinstance(value, torch.Tensor):
        # bitsandbytes' states share the tables of their quantization, which safetensors stores once under one name.
        place = value.data_ptr(), value.dtype, value.shape, value.stride()
        name = names.setdefault(place if value.numel() else id(value), str(len(names)))
        tensors[name] = value.detach().cpu().contiguous()
        return ["tensor", name]
    if isinstance(value, numpy.ndarray):
        return ["array", str(value.dtype), value.tolist()]
    if value is None or type(value) in {bool, int, float, str}:
        return value
    raise TypeError(f"cannot store a {type(value).__name__} in a checkpoint")


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *values = value
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(each, tensors) for key, each in values}
    if kind == "tensor":
        return tensors[values[0]]
    if kind == "array":
        return numpy.array(values[1], dtype=values[0])
    each = [_unpacked(one, tensors) for one in values]
    return each if kind == "list" else tuple(each)
