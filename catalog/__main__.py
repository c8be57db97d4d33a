"""Lists the facts LoRAFit has: ``python -m catalog models|gpus|machine [NAME] [--json]``."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from catalog import gpus, machine, models
from specs import gib
from specs.doors.door import Parser, door, run_and_exit


@door
def main(arguments: Sequence[str]) -> int:
    """Print one list and return the exit status: 2 if the question has no answer."""
    parser = Parser(prog="python -m catalog", description="List the facts LoRAFit has.")
    parser.add_argument("what", choices=("models", "gpus", "machine"))
    parser.add_argument("name", nargs="?", help="a single model or card")
    parser.add_argument("--json", action="store_true", help="every field, as JSON")
    args = parser.parse_args(arguments)
    entries = _ENTRIES[args.what](args.name)
    print(json.dumps(entries, indent=2) if args.json else "\n".join(map(_LINES[args.what], entries)))
    return 0


def _models(name: str | None) -> list[dict[str, Any]]:
    specs = [models.find(name)] if name else [models.shipped(known) for known in models.names()]
    return [{**dataclasses.asdict(spec), "config_json": spec.config} for spec in specs]


def _gpus(name: str | None) -> list[dict[str, Any]]:
    return [dataclasses.asdict(gpus.find(known)) for known in ([name] if name else gpus.names())]


def _devices(_name: str | None) -> list[dict[str, Any]]:
    return [dataclasses.asdict(device) for device in machine.devices()]


def _model_line(entry: Mapping[str, Any]) -> str:
    count = "unknown" if entry["num_params"] is None else f"{entry['num_params']:,}"
    return f"{entry['name']:48} {entry['model_type']:12} {count:>18}  {' '.join(entry['linear_modules'])}"


def _gpu_line(entry: Mapping[str, Any]) -> str:
    bf16 = "bf16" if entry["bf16"] else ""
    return f"{entry['name']:38} {entry['backend']:5} {gib(entry['usable_bytes']):>10} usable  {bf16}"


def _device_line(entry: Mapping[str, Any]) -> str:
    place = f"{entry['gpu']['backend']}:{entry['index']}"
    return f"{place:8} {entry['gpu']['name']:38} {gib(entry['free_bytes'])} free of {gib(entry['total_bytes'])}"


_ENTRIES: Mapping[str, Callable[[str | None], list[dict[str, Any]]]] = {
    "models": _models,
    "gpus": _gpus,
    "machine": _devices,
}
_LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "models": _model_line,
    "gpus": _gpu_line,
    "machine": _device_line,
}


if __name__ == "__main__":
    run_and_exit(main)
