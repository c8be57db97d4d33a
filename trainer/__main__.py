"""The command line of runs: start, watch, stop, resume, extend, compare and export them; examine data."""

import argparse
import dataclasses
import getpass
import importlib
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from catalog import machine, models
from specs import MIB, FinetunePlan, PlanError, RunError, gib, paths
from specs.doors.door import INTERRUPTED, Parser, door, run_and_exit
from specs.doors.reading import small_text
from specs.errors import shortened
from trainer.data.doctor import Report, examined
from trainer.data.examples import first_example, require_trained
from trainer.data.files.reading import is_hub_id
from trainer.data.messages import Turn
from trainer.data.source import DataSource, columns_of
from trainer.data.tokenizer import FamilyTokenizer, FolderTokenizer
from trainer.results import tasks
from trainer.results.chat import BASE, TUNED, Conversation, Question
from trainer.runs import export, launcher
from trainer.runs import retry as retrying
from trainer.runs.contract import Metric, Place, Run, State
from trainer.runs.diagnosis import Diagnosis, diagnoses, perplexity
from trainer.runs.export import compared, run_dict
from trainer.runs.feasibility import Ground, require_feasible
from trainer.runs.store import Store

_POLL_SECONDS = 0.5
_FAMILY = "qwen3"
"""Whose chat template shows data that is examined for no model: it renders calls, reasoning and system prompts."""
_QUANTILES = (("median", 0.5), ("95th percentile", 0.95), ("longest", 1.0))
_SHOWN_FINDINGS = 10
_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 100


@door
def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status: 0, 1 for a run that failed, 2 for a request that cannot be met."""
    given = _parser().parse_args(arguments)
    store = Store(paths.runs())
    if store.rebuilt:
        print(store.rebuilt, file=sys.stderr)
    launcher.start_waiting(store)
    status: int = given.command(store, given)
    return status


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


def _commands() -> Iterator[tuple[str, Callable[[Store, argparse.Namespace], int], str, dict[str, dict[str, Any]]]]:
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
        "--device": {"help": "such as cuda:0 or cpu; default: the first device of this machine"},
        **detached,
    }
    yield "run", _run, "train a plan and watch it", run_options
    yield "list", _list, "list all runs, newest first", {}
    yield "show", _show, "show one run: state, figures, answers", run_id
    yield "stop", _stop, "save a run and end it", run_id
    yield "resume", _resume, "continue from the last checkpoint", run_id
    steps = {"steps": {"type": int, "metavar": "STEPS"}}
    yield "extend", _extend, "train a run for more steps, once it is over", {**run_id, **steps}
    pairs = {"nargs": "+", "required": True, "metavar": "FIELD=VALUE", "help": "fields of the plan to change"}
    yield "retry", _retry, "run the same data again with some settings changed", {**run_id, "--set": pairs, **detached}
    ids = {"ids": {"nargs": "+", "metavar": "ID"}}
    yield "compare", _compare, "compare runs: where their plans differ, and their results", ids
    zipped = {
        "--zip": {"type": Path, "metavar": "FILE", "help": "write a zip of the adapter, plan and metrics instead"}
    }
    yield "export", _export, "print the metrics of a run as CSV", {**run_id, **zipped}
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
    yield "combine", _combine, "combine adapters of the same base model", {**ids, **sums}
    base = {"--base": {"action": "store_true", "help": "chat with the base model instead of the tuned one"}}
    yield "chat", _chat, "chat with a run's model, one question per line", {**run_id, **base}
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
    yield "check", _check, "examine a data set before training", {**data, **look}


def _run(store: Store, given: argparse.Namespace) -> int:
    plan = _read_plan(given.plan)
    if given.max_steps is not None:
        plan = dataclasses.replace(plan, max_steps=given.max_steps)
    data = _data(given)
    place = Place(device=given.device or _device(), model_path=_model_path(plan))
    _require_feasible(plan, data, place)
    run = store.create(plan, data, place=place)
    launcher.launch(store, run.id)
    return _watched_unless_detached(store, run, given)


def _watched_unless_detached(store: Store, run: Run, given: argparse.Namespace) -> int:
    """Watch a run to its end, or only show it with ``--detach``."""
    if given.detach:
        show(store.run(run.id), store, as_json=given.json)
        return 0
    return watch(store, run.id, as_json=given.json)


def _retry(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    plan = retrying.changed(run.plan, given.set)
    _require_feasible(plan, run.data, run.place)
    return _watched_unless_detached(store, retrying.retry(store, run, plan), given)


def _list(store: Store, given: argparse.Namespace) -> int:
    runs = store.runs()
    if given.json:
        print(json.dumps([run_dict(run) for run in runs], indent=2))
        return 0
    for run in runs:
        steps = f"{run.step}/{run.total_steps or '?'}"
        print(f"{run.id}  {run.state:<10} {steps:>11}  {run.plan.method:<9} {run.plan.model_name_or_path}")
    if not runs:
        print(f"No runs in {store.folder}.")
    return 0


def _show(store: Store, given: argparse.Namespace) -> int:
    show(store.run(given.id), store, as_json=given.json)
    return 0


def _stop(store: Store, given: argparse.Namespace) -> int:
    show(store.request_stop(given.id), store, as_json=given.json)
    return 0


def _resume(store: Store, given: argparse.Namespace) -> int:
    run = store.request_resume(given.id)
    launcher.launch(store, run.id)
    return watch(store, run.id, as_json=given.json)


def _extend(store: Store, given: argparse.Namespace) -> int:
    run = store.extend(given.id, given.steps)
    launcher.launch(store, run.id)
    return watch(store, run.id, as_json=given.json)


def _compare(store: Store, given: argparse.Namespace) -> int:
    rows = compared([store.run(run_id) for run_id in given.ids], store)
    if given.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max(len(name) for name in rows)
    for name, values in rows.items():
        print(f"{name:<{width}}  " + "  ".join(f"{value!s:<20}" for value in values))
    return 0


def _export(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    if given.zip:
        package = export.package(store, run)
        with given.zip.open("wb") as stream:
            export.write_zip(package, stream)
        print(given.zip)
    elif given.json:
        show(run, store, as_json=True)
    else:
        print(export.metrics_csv(store.metrics(run.id)), end="")
    return 0


def _merge(store: Store, given: argparse.Namespace) -> int:
    run = store.run(given.id)
    export.result_folder(store, run)  # refused here and not seconds later, by the training stack
    print(tasks.merge(store, run.id, Path(os.path.realpath(given.target))))
    return 0


def _combine(store: Store, given: argparse.Namespace) -> int:
    weights = given.weights or [1 / len(given.ids)] * len(given.ids)
    print(tasks.combine(store, given.ids, weights, given.combination_type))
    return 0


def _chat(store: Store, given: argparse.Namespace) -> int:
    turns: list[Turn] = []
    with Conversation(store, store.run(given.id)) as conversation:
        for line in sys.stdin or ():
            turns.append(Turn(role="user", content=line.strip()))
            said = ""
            for piece in conversation.answer(Question(turns=tuple(turns), voice=BASE if given.base else TUNED)):
                said += piece
                print(piece, end="", flush=True)
            print(flush=True)
            turns.append(Turn(role="assistant", content=said))
    return 0


def _push(store: Store, given: argparse.Namespace) -> int:
    # As an argument, the token would appear in the process list and in the shell's history.
    token = os.environ.get("HF_TOKEN") or _asked_token()
    # The Hub's library takes half a second to import; the other commands should not wait for it.
    hub = importlib.import_module("trainer.results.hub")
    print(hub.push(store, store.run(given.id), given.repo_id, token, private=not given.public))
    return 0


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


def _check(_: Store, given: argparse.Namespace) -> int:
    tokenizer = FolderTokenizer(given.model) if given.model else FamilyTokenizer(_FAMILY)
    report = examined(_data(given), tokenizer, previews=given.show)
    template = f"of {given.model}" if given.model else f"of the family {_FAMILY}"
    if given.json:
        print(json.dumps({**_checked(report), "template": template}, indent=2))
        return 0
    print(f"{given.data.name}: {report.rows:,} rows, {report.skipped:,} skipped")
    print(f"  read as {report.task}, layout {report.layout}")
    print(f"  {report.duplicates:,} rows repeat an earlier one")
    if report.lengths:
        told = ", ".join(f"{name} {report.quantile(share):,}" for name, share in _QUANTILES)
        print(f"  tokens: {told}")
    for name, count in itertools.islice(report.unused.items(), _SHOWN_NAMES):
        print(f"  not read: {name[:_SHOWN_CHARACTERS]}, in {count:,} rows")
    if len(report.unused) > _SHOWN_NAMES:
        print(f"  not read: {len(report.unused) - _SHOWN_NAMES:,} more columns or keys; --json lists them")
    for finding in report.findings[:_SHOWN_FINDINGS]:
        print(f"  {finding.sentence}")
    for preview in report.previews:
        print(f"  row {preview.row} by the template {template}, what is learned in [[ ]]:")
        print("    " + "".join(f"[[{words}]]" if learned else words for words, learned in preview.pieces))
    return 0


def _checked(report: Report) -> dict[str, Any]:
    """Return what was found in a data set as plain JSON values."""
    return {
        "rows": report.rows,
        "skipped": report.skipped,
        "task": report.task,
        "layout": report.layout,
        "unused": dict(report.unused),
        "labels": dict(report.labels),
        "duplicates": report.duplicates,
        "lengths": {name: report.quantile(share) for name, share in _QUANTILES} if report.lengths else {},
        "reasons": dict(report.reasons),
        "findings": [{"row": finding.row, "sentence": finding.sentence} for finding in report.findings],
        "shown": [
            {
                "row": preview.row,
                "pieces": [list(piece) for piece in preview.pieces],
                **({"rejected": [list(piece) for piece in preview.rejected]} if preview.rejected else {}),
                **({} if preview.label is None else {"label": preview.label}),
            }
            for preview in report.previews
        ],
    }


def watch(store: Store, run_id: str, *, as_json: bool = False) -> int:
    """Print what a run does until it is over; return 0, or 1 if it failed or was lost."""
    try:
        return _watched(store, run_id, as_json=as_json)
    except KeyboardInterrupt:
        print("The run continues in the background; use `show` to see it and `stop` to end it.", file=sys.stderr)
        return INTERRUPTED


def _watched(store: Store, run_id: str, *, as_json: bool) -> int:
    reporter = _Reporter()
    while True:
        run = store.run(run_id)
        if not as_json:
            for line in reporter.news(run, store.metrics(run_id, after_step=reporter.step)):
                print(line, flush=True)
        if run.is_over:
            show(run, store, as_json=as_json)
            return 0 if run.state in {State.FINISHED, State.STOPPED} else 1
        time.sleep(_POLL_SECONDS)


class _Reporter:
    """What was already printed about a run, so that each step, phase and diagnosis appears once."""

    def __init__(self) -> None:
        self._points: tuple[Metric, ...] = ()
        self._seen: set[object] = set()

    @property
    def step(self) -> int:
        return self._points[-1].step if self._points else 0

    def news(self, run: Run, points: tuple[Metric, ...]) -> Iterator[str]:
        self._points += points
        yield from (_line(metric, run) for metric in points)
        facts: dict[object, str] = {(run.state, run.phase): f"{run.id}: {run.state}, {run.phase}"}
        if points:
            facts |= {found.name: f"{run.id}: {_diagnosis_line(found, run)}" for found in diagnoses(self._points)}
        yield from (line for fact, line in facts.items() if fact not in self._seen)
        self._seen |= facts.keys()


def _line(metric: Metric, run: Run) -> str:
    parts = [f"step {metric.step}/{run.total_steps or '?'}"]
    for label, value, form in (
        ("loss", metric.loss, ".4f"),
        ("eval loss", metric.eval_loss, ".4f"),
        ("learning rate", metric.learning_rate, ".2e"),
        ("tokens/s", metric.tokens_per_second, ",.0f"),
        ("seconds left", metric.eta_seconds, ",.0f"),
    ):
        if value is not None:
            parts.append(f"{label} {value:{form}}")
    if metric.memory_bytes is not None:
        parts.append(gib(metric.memory_bytes))
    return "  ".join(parts)


def _processes_and_files(run: Run, store: Store) -> Iterator[str]:
    """Yield the command that starts the processes of a run on several devices, and where its files are."""
    if run.plan.num_gpus > 1:
        yield f"  processes: {shlex.join(['python', *launcher.worker_arguments(store, run)])}"
    yield f"  files: {store.run_folder(run.id)}"


def show(run: Run, store: Store, *, as_json: bool = False) -> None:
    """Print a run: its state, loss, memory, error, answers and folder."""
    metrics = store.metrics(run.id)
    if as_json:
        described = run_dict(run)
        described["metrics"] = [dataclasses.asdict(metric) for metric in metrics]
        described["diagnoses"] = [dataclasses.asdict(found) for found in diagnoses(metrics)]
        described["answers"] = [dataclasses.asdict(answer) for answer in store.answers(run.id)]
        print(json.dumps(described, indent=2))
        return
    losses = [metric.loss for metric in metrics if metric.loss is not None]
    print(f"{run.id}: {run.state}, step {run.step}/{run.total_steps or '?'}")
    if losses:
        print(f"  loss {losses[0]:.4f} -> {losses[-1]:.4f}, perplexity {perplexity(losses[-1]):.4g}")
    if "peak_used_bytes" in run.measured:
        predicted = (run.estimate or {}).get("used_bytes")
        expected = f", predicted {gib(predicted)}" if predicted else ""
        print(f"  memory: measured peak {gib(run.measured['peak_used_bytes'])}{expected}")
    if run.error:
        print(f"  {run.error}")
    if run.place.parent_id:
        print(f"  repeats {run.place.parent_id} with other settings")
    for found in diagnoses(metrics):
        print(f"  {_diagnosis_line(found, run)}")
    for answer in store.answers(run.id):
        print(f"  {answer.prompt}\n    before: {answer.base}\n    after:  {answer.tuned}")
    print(*_processes_and_files(run, store), sep="\n")


def _diagnosis_line(found: Diagnosis, run: Run) -> str:
    """Return a diagnosis in one line: the finding, what to change, and the rule."""
    remedy = found.remedy(run.plan)
    change = f"{found.advice} Try {remedy}." if remedy else found.advice
    return f"{found.name}: {found.sentence} {change} Rule: {found.rule}"


def _data(given: argparse.Namespace) -> DataSource:
    """Return the data that the arguments specify."""
    columns = columns_of(given.columns)
    path = given.data
    if not path.is_file() and is_hub_id(str(path)):
        path = tasks.fetch_dataset(str(path), paths.cache() / "datasets")
    return DataSource(
        path=os.path.realpath(path),
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
    first = machine.devices()[0]
    return "cpu" if first.gpu.is_cpu else f"cuda:{first.index}"


def _require_feasible(plan: FinetunePlan, data: DataSource, place: Place) -> None:
    """Refuse what the worker would refuse minutes later: the data's task, and what the plan cannot do here.

    Raises:
        LorafitError: If it is refused.
    """
    task = first_example(data).task
    require_trained(task, data.path)
    ground = Ground(
        device=place.device,
        compute_capabilities=machine.compute_capabilities(),
        linear_modules=models.known_modules(place.model_path or plan.model_name_or_path),
        has_pairs=task == "preference",
    )
    require_feasible(plan, ground)


def _model_path(plan: FinetunePlan) -> str:
    """Return the folder of the plan's model, given or already downloaded; empty if it must be downloaded."""
    named = Path(plan.model_name_or_path)
    if named.is_dir():
        return str(named.resolve())
    folder = paths.cache() / "models" / Path(plan.model_name_or_path).name
    return str(folder) if (folder / "config.json").is_file() else ""


if __name__ == "__main__":
    run_and_exit(main)
