"""Rounds a run's model to fewer bits, and prints what that costs."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.results import quantizing
from trainer.results.quantizing import WAYS
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]


def commands() -> Iterator[tuple[str, Command, str, dict[str, dict[str, Any]]]]:
    """Yield the command with what it does, in words and in code, and its options."""
    options: dict[str, dict[str, Any]] = {
        "id": {"metavar": "ID"},
        "--to": {
            "required": True,
            "choices": [*WAYS],
            "help": "; ".join(f"{name}: {way.about}" for name, way in WAYS.items()).replace("%", "%%"),
        },
        "--folder": {"type": Path, "metavar": "FOLDER", "help": "also copy it into a new folder"},
    }
    yield "quantize", _quantize, "round the merged model to 4 or 8 bit, and measure what that costs", options


def _quantize(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    target = Path(os.path.realpath(given.folder)) if given.folder else None
    if target is not None:
        quantizing.require_target(target)
    found = quantizing.quantized(store, run, given.to)
    folder = quantizing.folder(store, run, given.to)
    if target is not None:
        folder = quantizing.copied(store, run, given.to, target)
    if given.json:
        print(json.dumps({"folder": str(folder), **found}, indent=2))
        return 0
    print(found["sentence"])
    print(f"  {folder}")
    print(f"  Ask it: python -m trainer chat {run.id} --voice {given.to}")
    return 0
