"""Takes a run away: its metrics, its files as a zip, or its model for Ollama, llama.cpp and vLLM."""

import argparse
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from specs import RunError
from trainer import files
from trainer.commands.showing import show
from trainer.results.serving import exporting
from trainer.results.serving.exporting import TARGETS
from trainer.results.serving.model_file import TYPES
from trainer.runs import export
from trainer.runs.store import Store

Command = Callable[[Store, argparse.Namespace], int]

_TYPE = "F16"


def commands() -> Iterator[tuple[str, Command, str, dict[str, dict[str, Any]]]]:
    """Yield the command with what it does, in words and in code, and its options."""
    options: dict[str, dict[str, Any]] = {
        "id": {"metavar": "ID"},
        "--zip": {"type": Path, "metavar": "FILE", "help": "write a zip of the adapter, plan and metrics instead"},
        "--to": {
            "choices": [*TARGETS],
            "help": "; ".join(f"{name}: {text}" for name, text in TARGETS.items()),
        },
        "--folder": {"type": Path, "metavar": "FOLDER", "help": "where --to writes: a new or empty folder"},
        "--type": {"choices": TYPES, "help": f"of a GGUF file; {_TYPE} by default"},
    }
    yield "export", _export, "print the metrics of a run as CSV, or write its model for another program", options


def _export(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    _require_used(given)
    if given.to:
        if given.folder is None:
            raise RunError("--folder", "says where --to writes, and must be given", None, "Name a new folder")
        _served(store, given)
    elif given.zip:
        package = export.package(store, run)
        with files.complete(given.zip) as stream:
            export.write_zip(package, stream)
        print(given.zip)
    elif given.json:
        show(run, store, as_json=True)
    else:
        print(export.metrics_csv(store.metrics(run.id)), end="")
    return 0


def _require_used(given: argparse.Namespace) -> None:
    """Refuse an option that the others leave without effect.

    Raises:
        RunError: Names the option, and what it belongs to.
    """
    if given.zip and (given.to or given.json):
        other = "--to" if given.to else "--json"
        raise RunError("--zip", f"writes another file than {other}, and must stand alone", None, "Call export twice")
    if given.folder is not None and not given.to:
        raise RunError("--folder", "says where --to writes, and needs it", None, f"Add --to {'|'.join(TARGETS)}")
    if given.type and given.to not in {"ollama", "gguf"}:
        raise RunError("--type", "is that of a GGUF file", given.type, "Add --to ollama or --to gguf")


def _served(store: Store, given: argparse.Namespace) -> None:
    folder = Path(os.path.realpath(given.folder))
    written = exporting.served(store, store.run(given.id), given.to, folder, given.type or _TYPE)
    if given.json:
        print(json.dumps({"folder": str(folder), "commands": written.commands, "said": written.said}, indent=2))
        return
    for line in (*written.said, "", f"cd {shlex.quote(str(folder))}", *written.commands):
        print(line)
