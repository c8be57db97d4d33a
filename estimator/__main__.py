"""The command line of the estimator: an estimate, a table, the accuracy report, new measurements, the shipped tapes."""

import argparse
import dataclasses
import functools
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from catalog import gpus, machine, models
from estimator import pricing
from estimator.accuracy import comparison, measure
from estimator.duration import machine as own_speed
from estimator.estimate import MemoryEstimate
from estimator.replay.reservation import Circumstances
from estimator.tape import library, shipping
from estimator.tape.layers import with_layers
from estimator.tape.recipe import Recipe, recipe
from specs import METHODS, MIB, CatalogError, FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError, gib
from specs.doors.door import Parser, door, json_value, run_and_exit
from specs.doors.reading import small_text
from specs.effect import without_effect
from specs.errors import shortened
from specs.fields import LISTS
from specs.paths import assets

_ASSETS = assets()
_MEASURED = _ASSETS / "measured"
_CONFIGURATIONS = _ASSETS / "configurations.csv"
_TABLE_BATCHES = (1, 2, 4, 8, 16)


@door
def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 2 if the request cannot be met."""
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "accuracy": _accuracy,
        "calibrate": _calibrate,
        "measure": _measure,
        "tapes": _tapes,
    }
    command = commands.get(arguments[0] if arguments else "")
    try:
        if command is None:
            _estimate(arguments)
        else:
            command(arguments[1:])
    finally:
        library.stop()
    return 0


def _calibrate(arguments: Sequence[str]) -> None:
    """Measure how fast this machine is, and keep it for every later forecast of time."""
    parser = Parser(prog="python -m estimator calibrate", description="Measure this machine's speed; takes 10 s.")
    parser.parse_args(arguments)
    for device in machine.devices():
        waiting = functools.partial(_progress, f"waiting for another process that measures {device.gpu.name}")
        curves = own_speed.calibrate(device.gpu, device.torch_name, waiting=waiting)
        print(device.gpu.name)
        for dtype, points in curves.matmul.items():
            reached = ", ".join(f"{rate / 1e9:,.0f} with {tokens:,.0f}" for tokens, rate in points)
            print(f"  matrix products in {dtype}, GFLOP/s by tokens: {reached}")
        print(f"  attention: {curves.attention_flops / 1e9:,.0f} GFLOP/s")
        rates = {"norms and activations": curves.moved, "adapters": curves.adapter, "4-bit weights": curves.expanded}
        for name, rate in rates.items():
            print(f"  {name}: {rate / 1e9:,.1f} GB/s")
        print(f"  a call: {curves.call_seconds * 1e6:,.1f} microseconds")
        print(f"  the libraries are loaded in {curves.seconds_to_start:,.1f} s")


def _estimate(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    started = time.monotonic()
    model = with_layers(models.find(args.model), _progress)
    gpu = gpus.find(args.gpu) if args.gpu else _taught(machine.devices()[0])
    plan = _plan(args, model)
    if args.table:
        _table(model, plan, gpu, METHODS if args.table == "all" else USUAL)
        return
    needed = pricing.gpus_needed(model, plan, gpu, progress=_progress)
    if args.gpus_needed and needed is not None:
        plan = _on_gpus(plan, needed)
    circumstances = Circumstances(expandable_segments=args.expandable_segments)
    found = pricing.price(model, plan, gpu, progress=_progress, circumstances=circumstances)
    if args.json:
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({**found.to_dict(), "gpus_needed": needed, "seconds": seconds}, indent=2))
    else:
        print(_page(model, plan, gpu, found))
        print(f"  {_gpus_needed_line(needed, plan, gpu)}")


def _taught(device: machine.Device) -> GpuSpec:
    """Return this machine's device as its runs taught it."""
    own_runs = importlib.import_module("lorafit.own_runs")  # only this machine's device needs the runs
    found: GpuSpec = own_runs.taught(device, own_runs.kept())
    return found


def _on_gpus(plan: FinetunePlan, number: int) -> FinetunePlan:
    """Return a plan on this many cards: one without a strategy, several with the plan's own strategy or FSDP."""
    if number == 1:
        return dataclasses.replace(plan, num_gpus=1, sharding="none", offload="none")
    return pricing.on_several(plan, number)


def _gpus_needed_line(needed: int | None, plan: FinetunePlan, gpu: GpuSpec) -> str:
    if needed == 1:
        return f"One {gpu.name} is enough."
    if needed is None:
        return f"No number of {gpu.name} is enough with {pricing.strategy(plan)}."
    return f"Needs {needed:,} x {gpu.name} with {pricing.strategy(plan)}."


USUAL = tuple(name for name, method in METHODS.items() if method.peft_type in {None, "LORA"})
"""The methods of a table unless all are asked for: those that people compare first, most of them traced already."""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m estimator",
        description="GPU memory of fine-tuning. Commands: accuracy, calibrate, measure, tapes.",
    )
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--model", required=True, help="catalog name, config.json, Hub id, or a size such as 7B")
    parser.add_argument("--method", required=True, help=", ".join(METHODS))
    parser.add_argument("--gpu", help="a card from the catalog; default: this machine's")
    parser.add_argument("--target-modules", type=_targets, help="all-linear, or names separated by commas")
    parser.add_argument("--target-parameters", type=_targets, help="stacked experts, names separated by commas")
    parser.add_argument("--modules-to-save", type=_targets, help="modules trained whole, names separated by commas")
    parser.add_argument("--layers-to-transform", type=_numbers, help="numbers of the layers to adapt, by commas")
    parser.add_argument("--trainable-token-indices", type=_numbers, help="numbers of tokens to train, by commas")
    parser.add_argument("--autocast", action=switch, help="mixed precision in the dtype of the weights")
    parser.add_argument(
        "--expandable-segments", action=switch, default=True, help="as in PYTORCH_ALLOC_CONF; LoRAFit's own runs set it"
    )
    for name, kind in _typed_fields():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, **({"action": switch} if kind is bool else {"type": kind}))
    parser.add_argument("--gpus-needed", action="store_true", help="estimate for as many cards as needed")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--table",
        nargs="?",
        const="usual",
        choices=("usual", "all"),
        help="print a table of methods and batch sizes: full fine-tuning and kinds of LoRA, or all",
    )
    return parser


def _typed_fields() -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Yield the plan fields that are options of the command line, under their own names."""
    yield from (
        (name, int) for name in ("r", "lora_alpha", "per_device_train_batch_size", "gradient_accumulation_steps")
    )
    yield from ((name, int) for name in ("max_length", "num_gpus", "init_r", "target_r", "num_virtual_tokens"))
    yield from ((name, int) for name in ("oft_block_size", "decompose_factor"))
    yield "rank_pattern", _pattern
    yield "task_type", str
    yield "num_labels", int
    yield from ((name, bool) for name in ("load_in_4bit", "load_in_8bit"))
    yield "lora_dropout", float
    yield from ((name, str) for name in ("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "dtype", "adapter_dtype"))
    yield from ((name, str) for name in ("loss", "attn_implementation", "optim", "sharding", "offload", "bias"))
    yield from ((name, bool) for name in ("bnb_4bit_use_double_quant", "prepare_kbit", "packing"))
    yield from ((name, bool) for name in ("gradient_checkpointing", "use_reentrant", "use_dora"))
    yield from ((name, bool) for name in ("activation_offloading", "layer_offloading"))
    yield from ((name, int) for name in ("every_n_layers", "torch_empty_cache_steps"))


def _pattern(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, got {shortened(text)}") from error


def _targets(text: str) -> str | tuple[str, ...]:
    return text if text == "all-linear" else tuple(name for name in text.split(",") if name)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers separated by commas, got {shortened(text)}") from error


def _plan(args: argparse.Namespace, model: ModelSpec) -> FinetunePlan:
    names = [*LISTS, *(name for name, _ in _typed_fields())]
    values = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.gpus_needed and values.get("num_gpus", 1) == 1 and values.get("sharding", "none") != "none":
        values["num_gpus"] = 2  # a strategy needs several; the number is what we compute
    if args.autocast:
        values["fp16" if values.get("dtype") == "float16" else "bf16"] = True
    plan = pricing.plan_for(model, args.model, args.method, values)
    for name, why in without_effect(plan, values):
        _progress(f"{name} changes nothing: {why}")
    return plan


def _page(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, found: MemoryEstimate) -> str:
    """Return an estimate as lines for a person."""
    low, high = found.error_band
    lines = [
        f"{model.name}, {METHODS[plan.method].label}, {plan.per_device_train_batch_size} x {plan.max_length} tokens, "
        f"on {gpu.name} ({gib(found.capacity_bytes)} usable): {found.verdict}",
        "",
        *(f"  {name:24} {gib(size):>10}" for name, size in found.components.items() if size),
        f"  {'used':24} {gib(found.used_bytes):>10}   (real runs: {low:+.0%} to {high:+.0%})",
        "",
        *([f"  {found.own_text}", ""] if found.own_text else []),
        f"  parameters {found.num_params:,}, trained {found.trainable_params:,}",
        f"  allocated {gib(found.peak_allocated_bytes)}, reserved {gib(found.peak_reserved_bytes)}; "
        + ", ".join(f"{phase} {gib(size)}" for phase, size in found.phases.items()),
        *(f"  ! {text}" for text in found.warnings),
        *(f"  - {text}" for text in found.assumptions),
    ]
    return "\n".join(lines)


def _table(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, names: Iterable[str]) -> None:
    """Print what each of some methods uses at several batch sizes; ``*`` means tight, ``-`` means that it does not fit.

    A method that the plan's other settings exclude says why in its row.
    """
    print(f"{model.name}, {plan.max_length} tokens, on {gpu.name} ({gib(gpu.usable_bytes)} usable)")
    print(f"{'per_device_train_batch_size':28}" + "".join(f"{size:>12}" for size in _TABLE_BATCHES))
    marks = {"fits": " ", "tight": "*", "does not fit": "-"}
    for name in names:
        cells = []
        try:
            changed = plan.with_method(name)
        except PlanError as error:
            print(f"{METHODS[name].label:28}  {error}")
            continue
        for size in _TABLE_BATCHES:
            one = dataclasses.replace(changed, per_device_train_batch_size=size)
            found = pricing.price(model, one, gpu, progress=_progress)
            cells.append(f"{gib(found.used_bytes):>11}{marks[found.verdict]}")
        print(f"{METHODS[name].label:28}" + "".join(cells))


def _progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr)


def _accuracy(arguments: Sequence[str]) -> None:
    parser = Parser(prog="python -m estimator accuracy", description="Compare predictions with measured runs.")
    parser.add_argument(
        "--rows", type=Path, action="append", help="a CSV of measured runs; default: all files in assets/measured"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    files = args.rows or sorted(_MEASURED.glob("*.csv"))
    found = [entry for file in files for entry in comparisons(file)]
    if args.json:
        print(json.dumps(comparison.report(found), indent=2))
    else:
        print("\n".join(_accuracy_lines(found)))
    if any(entry.error_text for entry in found):
        raise SystemExit(1)


def comparisons(file: Path) -> tuple[comparison.Comparison, ...]:
    """Return the prediction for every row of a CSV of measured runs.

    Raises:
        CatalogError: If the file cannot be read.
    """
    text = _text(file)

    def model(name: str) -> ModelSpec:
        return _model_beside(file, name)

    def tape(spec: ModelSpec, row: comparison.MeasuredRow, gpu: GpuSpec) -> Any:
        return library.tape_for(spec, row.plan, gpu=gpu, conditions=row.conditions)

    return tuple(
        comparison.compared(row, model=model, gpu=measure.device_of_row, tape=tape) for row in comparison.rows(text)
    )


def _text(file: Path) -> str:
    return small_text(file, "a CSV", most_bytes=16 * MIB, refusal=CatalogError)


def _model_beside(file: Path, name: str) -> ModelSpec:
    """Return the model of a measured row: a configuration next to the file, or a name from the catalog."""
    neighbour = file.parent / name
    return models.find(str(neighbour) if neighbour.is_file() else name)


def _measure(arguments: Sequence[str]) -> None:
    """Train plans for a few steps on this machine and append their peaks to a CSV of measured rows."""
    parser = Parser(
        prog="python -m estimator measure",
        description="Train models of real shapes with random weights for three steps and record their "
        "memory. Plans that the file already has are skipped.",
    )
    parser.add_argument(
        "--configurations",
        type=Path,
        default=_CONFIGURATIONS,
        help="a CSV of plans; default: assets/configurations.csv",
    )
    parser.add_argument("--rows", type=Path, help="the CSV to append to; default: that of the card in assets/measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--most", type=int, help="measure at most this many plans")
    args = parser.parse_args(arguments)
    device = measure.device_to_measure(args.device)
    file = args.rows or _MEASURED / f"{device.gpu.name.lower().replace(' ', '-')}.csv"
    wanted = comparison.rows(_text(args.configurations))
    text = _text(file) if file.exists() else ""
    left = [one for one in wanted if not measure.is_measured(text, one.plan, one.model, device)]
    for number, one in enumerate(left[: args.most], start=1):
        _progress(f"{number} of {len(left[: args.most])}: {Path(one.model).stem}, {one.plan.method}")
        try:
            found = measure.measure(one.plan, _model_beside(args.configurations, one.model), device)
        except LorafitError as error:
            print(error, file=sys.stderr)
            continue
        entry = measure.row(one.plan, one.model, device, found)
        text = measure.appended(text, entry)
        file.write_text(text, encoding="utf-8")
        print(f"{Path(one.model).stem}, {one.plan.method}: {entry['notes']}", flush=True)


def _accuracy_lines(found: Sequence[comparison.Comparison]) -> Iterator[str]:
    yield f"{'model':26} {'method':7} {'batch x length':>14} {'kernel':14}" + "".join(
        f"{kind:>30}" for kind in comparison.KINDS
    )
    for entry in found:
        row = entry.row
        shape = f"{row.plan.per_device_train_batch_size} x {row.plan.max_length}"
        name = Path(row.model).stem[:26]
        cells = "".join(_cell(entry, kind) for kind in comparison.KINDS)
        yield f"{name:26} {row.plan.method:7} {shape:>14} {row.conditions.attention_kernel:14}{cells}"
        if entry.row.ran_out:
            yield f"  {entry.row.notes}; predicted: {entry.verdict}"
        if entry.error_text:
            yield f"  {entry.error_text}"
    yield from _summary_lines(found)


def _summary_lines(found: Sequence[comparison.Comparison]) -> Iterator[str]:
    """Yield the errors of each kind of bytes: of every set of runs, then of published runs and of this trainer's."""
    sets: dict[str, list[comparison.Comparison]] = {}
    for entry in found:
        for name in (entry.row.set_name, "published runs" if not entry.row.by_own_trainer else "this trainer"):
            sets.setdefault(name, []).append(entry)
    width = max(map(len, sets), default=0)
    for kind in comparison.KINDS:
        for name in sorted(sets, key=lambda one: ("," not in one, one)):
            total = comparison.summary(sets[name], kind)
            if total.mean_abs_error is not None:
                yield (
                    f"{kind:9} {name:{width}} {total.n:3} rows, mean error {total.mean_abs_error:6.2%}, "
                    f"worst {total.worst_under:+.2%} and {total.worst_over:+.2%}"
                )


def _cell(entry: comparison.Comparison, kind: comparison.Kind) -> str:
    error = entry.error(kind)
    if error is None:
        return f"{'':30}"
    pair = f"{gib(entry.predicted[kind])} / {gib(entry.row.measured[kind])}"
    return f"{pair:>22} {error:+7.2%}"


def _tapes(arguments: Sequence[str]) -> None:
    """Trace the tapes to ship: those of the measured rows, and the main ones of each model."""
    parser = Parser(prog="python -m estimator tapes", description="Trace the tapes to ship.")
    parser.add_argument("names", nargs="*", help="models; default: the measured rows and the whole catalog")
    args = parser.parse_args(arguments)
    if not args.names:
        _print_outcome("measured rows", shipping.write(measured_recipes()))
    for name in args.names or models.names():
        _print_outcome(name, shipping.write(shipping.main_recipes(models.find(name))))
    if not args.names:
        catalog = (one for name in models.names() for one in shipping.main_recipes(models.find(name)))
        print(f"{shipping.prune((*measured_recipes(), *catalog))} tapes dropped")


def _print_outcome(name: str, outcome: tuple[int, list[str]]) -> None:
    print(f"{name}: {outcome[0]} tapes written", flush=True)
    for problem in outcome[1]:
        print(f"{name}: {problem}", file=sys.stderr)


def measured_recipes() -> Iterator[Recipe]:
    """Yield the recipes that the measured rows of the project need."""
    for file in sorted(_MEASURED.glob("*.csv")):
        for row in comparison.rows(file.read_text(encoding="utf-8")):
            yield recipe(_model_beside(file, row.model), row.plan, row.conditions, measure.device_of_row(row.gpu))


if __name__ == "__main__":
    run_and_exit(main)
