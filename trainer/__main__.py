"""The command line of runs: start, watch, stop, resume, extend, compare and export them; examine data."""

import argparse
import dataclasses
import functools
import getpass
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog import here, machine
from estimator import cached
from specs import MIB, FinetunePlan, PlanError, RunError, paths
from specs.doors.door import Parser, door, run_and_exit
from specs.doors.reading import small_text
from specs.errors import shortened
from trainer.commands import chatting, evaluating, exporting, going, keeping, quantizing, racing, space
from trainer.commands.examining import show_examined
from trainer.commands.showing import show, watch
from trainer.data.source import DataSource, columns_of
from trainer.results import tasks
from trainer.runs import ablation, export, launcher
from trainer.runs.contract import Place, Run
from trainer.runs.export import compared
from trainer.runs.starting import Starter, changed
from trainer.runs.store import Store

_ON_OTHERS: dict[str, dict[str, Any]] = {
    "--processes": {"type": int, "metavar": "N", "help": "on N devices from here on; a step still sees the same rows"},
    "--sharding": {"choices": ("ddp", "fsdp"), "help": "how they share the work; default: as before, else ddp"},
}
"""How a run goes on with another number of devices."""


@door
def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status: 0, 1 for a run that failed, 2 for a request that cannot be met."""
    given = _parser().parse_args(arguments)
    status: int = given.command(given)
    return status


def _on_runs(command: Callable[[Store, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a command that opens the runs folder, and starts runs there that wait for a free device."""

    @functools.wraps(command)
    def opening(given: argparse.Namespace) -> int:
        store = Store(paths.runs())
        if store.rebuilt:
            print(store.rebuilt, file=sys.stderr)
        launcher.start_waiting(store)
        return command(store, given)

    return opening


def _parser() -> Parser:
    parser = Parser(prog="python -m trainer", description="Start, watch, stop, resume and export runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text, options in _commands():
        one = commands.add_parser(name, help=text)
        for flag, settings in options.items():
            one.add_argument(flag, **settings)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(command=command)
    return parser


def _commands() -> Iterator[tuple[str, Callable[[argparse.Namespace], int], str, dict[str, dict[str, Any]]]]:
    """Yield each command with what it does, in words and in code, and its options."""
    run_id: dict[str, dict[str, Any]] = {"id": {"metavar": "ID"}}
    data: dict[str, dict[str, Any]] = {
        "--data": {
            "type": Path,
            "required": True,
            "metavar": "FILE",
            "help": "json, jsonl, csv, parquet, txt, or a Hub id",
        },
        "--columns": {
            "nargs": "+",
            "default": [],
            "metavar": "ROLE=COLUMN",
            "help": "which column has which role, such as prompt=question",
        },
        "--split": {"default": "train", "metavar": "NAME", "help": "of a file that holds several; train by default"},
        "--thinking": {"choices": ("keep", "drop"), "default": "keep", "help": "learn reasoning, or leave it out"},
    }
    detached = {"--detach": {"action": "store_true", "help": "return at once and print the run's id"}}
    run_options: dict[str, dict[str, Any]] = {
        "--plan": {"type": Path, "required": True, "metavar": "FILE", "help": "a plan in JSON"},
        **data,
        "--prompt": {"action": "append", "default": [], "metavar": "TEXT", "help": "ask this before and after"},
        "--evaluate-on": {"default": "", "metavar": "NAME", "help": "the split that is held out, such as test"},
        "--max-steps": {"type": int, "metavar": "N", "help": "train for N optimizer steps, whatever the plan says"},
        "--device": {"help": "such as cuda:0 or cpu; default: the first device of the machine that trains"},
        "--on": {"metavar": "PLACE", "help": going.ON},
        **detached,
    }
    yield "run", _run, "train a plan and watch it", run_options
    yield "race", _race, racing.HELP, {**run_options, **racing.OPTIONS}
    yield "ablate", _ablate, racing.ABLATION_HELP, {**run_options, **racing.ABLATION_OPTIONS}
    for commands in (keeping, evaluating, exporting, going):
        for name, command, text, options in commands.commands():
            yield name, _on_runs(command), text, options
    yield from (
        ("show", _show, "show one run: state, figures, answers", run_id),
        ("stop", _stop, "save a run and end it", run_id),
        ("resume", _resume, "continue from the last checkpoint", {**run_id, **_ON_OTHERS}),
    )
    steps = {"steps": {"type": int, "metavar": "STEPS"}}
    yield "extend", _extend, "train a run for more steps, once it is over", {**run_id, **steps}
    pairs = {"nargs": "+", "required": True, "metavar": "FIELD=VALUE", "help": "fields of the plan to change"}
    yield "retry", _retry, "run the same data again with some settings changed", {**run_id, "--set": pairs, **detached}
    yield "duplicate", _duplicate, "run the same plan on the same data once more", {**run_id, **detached}
    ids = {"ids": {"nargs": "+", "metavar": "ID"}}
    yield "compare", _compare, "compare runs: where their plans differ, and their results", ids
    target = {"target": {"type": Path, "metavar": "FOLDER"}}
    yield "merge", _merge, "merge the adapter into the base model, in 16 bit", {**run_id, **target}
    sums: dict[str, dict[str, Any]] = {
        "--weights": {"type": _numbers, "metavar": "W,W", "help": "weight of each adapter; default: equal shares"},
        "--combination-type": {
            "default": "cat",
            "choices": [*tasks.COMBINATION_TYPES],
            "help": "how PEFT combines them",
        },
    }
    yield "combine", _combine, "combine adapters of the same base model into a run of its own", {**ids, **sums}
    for name, command, text, options in (*chatting.commands(), *quantizing.commands()):
        yield name, _on_runs(command), text, options
    repository: dict[str, dict[str, Any]] = {
        "repo_id": {"metavar": "OWNER/NAME"},
        "--public": {"action": "store_true", "help": "make a new repository public"},
    }
    yield (
        "push",
        _push,
        "upload the result to the Hub; takes the token from HF_TOKEN or asks for it",
        {**run_id, **repository},
    )
    look: dict[str, dict[str, Any]] = {
        "--model": {
            "type": Path,
            "metavar": "FOLDER",
            "help": "read it with this model's tokenizer and chat template",
        },
        "--show": {"type": int, "default": 0, "metavar": "N", "help": "also print N rows as the model reads them"},
    }
    yield "disk", _disk, "what takes space on the disk, and its removal", space.OPTIONS
    yield "check", _check, "examine a data set before training", {**data, **look}


@_on_runs
def _run(store: Store, given: argparse.Namespace) -> int:
    plan, data, place = _wanted(given)
    run = Starter(store, here).start(plan, data, place, _predicted(plan, data, place))
    return _watched_unless_detached(store, run, given)


@_on_runs
def _race(store: Store, given: argparse.Namespace) -> int:
    plan, data, place = _wanted(given)
    run = Starter(store, here).race(plan, given.vary, data, place, _predicted(plan, data, place))
    return _watched_unless_detached(store, run, given)


@_on_runs
def _ablate(store: Store, given: argparse.Namespace) -> int:
    if not 1 <= given.seeds <= ablation.MOST_SEEDS:
        raise PlanError("--seeds", f"must be 1 to {ablation.MOST_SEEDS}", given.seeds)
    plan, data, place = _wanted(given)
    texts = racing.grid(given.vary, here.linear_modules(place.model_path or plan.model_name_or_path))
    told = _predicted(plan, data, place)
    run = Starter(store, here).race(plan, texts, data, place, told, repeats=given.seeds)
    return _watched_unless_detached(store, run, given)


def _predicted(plan: FinetunePlan, data: DataSource, place: Place) -> Mapping[str, Any] | None:
    """Return what is predicted of a run, corrected by the runs before it; None where a step must be traced first."""
    predicting = importlib.import_module("lorafit.predicting")  # half a second that no other command needs
    found: Mapping[str, Any] | None = predicting.predicted(plan, data, place)
    return found


def _wanted(given: argparse.Namespace) -> tuple[FinetunePlan, DataSource, Place]:
    """Return what the arguments ask to train, on which data and where."""
    plan = _read_plan(given.plan)
    if given.max_steps is not None:
        plan = dataclasses.replace(plan, max_steps=given.max_steps)
    device = going.device(Store(paths.runs()), given.on, given.device) if given.on else given.device or _device()
    place = Place(device=device, model_path=here.model_folder(plan.model_name_or_path))
    return plan, _data(given), place


def _watched_unless_detached(store: Store, run: Run, given: argparse.Namespace) -> int:
    """Watch a run to its end, or only show it with ``--detach``."""
    if given.detach:
        show(store.run(run.id), store, as_json=given.json)
        return 0
    return watch(store, run.id, as_json=given.json)


@_on_runs
def _retry(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    plan = changed(run.plan, given.set)
    again = Starter(store, here).retry(run, plan, _predicted(plan, run.data, run.place))
    return _watched_unless_detached(store, again, given)


@_on_runs
def _duplicate(store: Store, given: argparse.Namespace) -> int:
    return _watched_unless_detached(store, Starter(store, here).duplicate(store.run(given.id)), given)


@_on_runs
def _show(store: Store, given: argparse.Namespace) -> int:
    show(store.run(given.id), store, as_json=given.json)
    return 0


@_on_runs
def _stop(store: Store, given: argparse.Namespace) -> int:
    show(store.request_stop(given.id), store, as_json=given.json)
    return 0


@_on_runs
def _resume(store: Store, given: argparse.Namespace) -> int:
    if given.processes is None and given.sharding is not None:
        raise PlanError("--sharding", "goes with --processes", given.sharding, "Give both")
    wished, told = None, None
    if given.processes is not None:
        run = store.run(given.id)
        wished = run.plan.over(given.processes, given.sharding)
        told = _predicted(wished, run.data, run.place)
    run = Starter(store, here).resume(given.id, wished, told)
    return watch(store, run.id, as_json=given.json)


@_on_runs
def _extend(store: Store, given: argparse.Namespace) -> int:
    run = Starter(store, here).extend(given.id, given.steps)
    return watch(store, run.id, as_json=given.json)


@_on_runs
def _compare(store: Store, given: argparse.Namespace) -> int:
    rows = compared([store.run(run_id) for run_id in given.ids], store)
    if given.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max(len(name) for name in rows)
    for name, values in rows.items():
        print(f"{name:<{width}}  " + "  ".join(f"{value!s:<20}" for value in values))
    return 0


@_on_runs
def _merge(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    export.result_folder(store, run)  # refused here and not seconds later, by the training stack
    print(tasks.merge(store, run.id, Path(os.path.realpath(given.target))))
    return 0


@_on_runs
def _combine(store: Store, given: argparse.Namespace) -> int:
    weights = given.weights or [1 / len(given.ids)] * len(given.ids)
    show(tasks.combine(store, given.ids, weights, given.combination_type), store, as_json=given.json)
    return 0


@_on_runs
def _push(store: Store, given: argparse.Namespace) -> int:
    # As an argument, the token would appear in the process list and in the shell's history.
    token = os.environ.get("HF_TOKEN") or _asked_token()
    # The Hub's library takes half a second to import; the other commands should not wait for it.
    hub = importlib.import_module("trainer.results.hub")
    print(hub.push(store, store.run(given.id), given.repo_id, token, private=not given.public))
    return 0


@_on_runs
def _disk(store: Store, given: argparse.Namespace) -> int:
    return space.show_space(store, given, cached.kept)


def _asked_token() -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise RunError("token", "is asked for in a terminal, and there is none", None, "Set HF_TOKEN")
    return getpass.getpass("Hub token (neither shown nor stored): ")


def _numbers(text: str) -> list[float]:
    """Return the numbers of a text such as ``0.5,0.5``."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, got {shortened(text)}") from error


def _check(given: argparse.Namespace) -> int:
    task_types = here.task_types(str(given.model)) if given.model else ()
    show_examined(_data(given), model=given.model, task_types=task_types, rows=given.show, as_json=given.json)
    return 0


def _data(given: argparse.Namespace) -> DataSource:
    """Return the data that the arguments specify."""
    columns = columns_of(given.columns)
    return DataSource(
        path=tasks.data_file(given.data),
        columns=columns,
        prompts=tuple(getattr(given, "prompt", ())),
        thinking=given.thinking,
        split=given.split,
        evaluation_split=getattr(given, "evaluate_on", ""),
    )


def _read_plan(path: Path) -> FinetunePlan:
    return FinetunePlan.from_json(small_text(path, "a plan", most_bytes=MIB, refusal=PlanError))


def _device() -> str:
    """Return the torch name of the machine's first device."""
    return machine.devices()[0].torch_name


if __name__ == "__main__":
    run_and_exit(main)
