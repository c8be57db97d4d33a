"""Model folders of a real shape with weights of zero: loading them takes as much memory as loading the real ones."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs import FinetunePlan
from trainer.model.build import base_model
from trainer.model.packing import META

# safetensors' names for the dtypes; https://github.com/huggingface/safetensors#format
_DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ALIGNMENT = 8


def write_blank_model(config: Mapping[str, Any], folder: Path, *, dtype: str) -> None:
    """Write a model folder with zeros for weights; on file systems with sparse files it takes no space.

    Args:
        config: The model's ``config.json``.
        folder: Where to write it.
        dtype: The dtype of the weights on disk.

    Raises:
        SpecError: If transformers cannot build such a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}), encoding="utf-8")
    model = base_model(FinetunePlan.for_method("full", "blank", dtype=dtype), config, device=META)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Tied weights are written once, and buffers that are not saved with a model are left out.
    buffers = {name for name, _ in model.named_buffers()}
    saved = ((name, tensor) for name, tensor in model.state_dict().items() if name in buffers)
    for name, tensor in (*model.named_parameters(), *saved):
        word = _DTYPE_NAMES[str(tensor.dtype).removeprefix("torch.")]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": [start, end]}
    _write_with_hole(folder / "model.safetensors", header, end)


def _write_with_hole(path: Path, header: Mapping[str, Any], num_bytes: int) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        os.truncate(file.fileno(), file.tell() + num_bytes)
