"""The command line: combines catalog, estimator and advisor, and prints a page, JSON or an export."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from advisor import GOALS, TASKS, ByRule, Situation, advise, by_rule, cheatsheet
from advisor.advice import spelled
from advisor.export import FORMATS, Export, assumed, exported
from advisor.rules import RULE_SETS
from advisor.situation import TASKS_OF_DATA, suits
from catalog import gpus, machine, models, tokenizers
from estimator import pricing
from estimator.duration import machine as own_speed
from estimator.estimate import MemoryEstimate
from estimator.tape.layers import with_layers
from specs import GIB, DataError, FinetunePlan, GpuSpec, ModelSpec, PlanError, TraceError, paths
from specs.doors.door import Parser, door, run_and_exit, setting
from specs.errors import clipped, ended
from specs.tasks import kind_for, task_type_of
from trainer.data import conversion, doctor, readers
from trainer.data.doctor import Report
from trainer.data.examples import require_trained
from trainer.data.files.reading import is_hub_id
from trainer.data.known import training_data
from trainer.data.readers import Reader
from trainer.data.source import DataSource, columns_of

_DATA = "data.jsonl"
"""The data file that an export names if none was given."""


@door
def main(arguments: Sequence[str]) -> int:
    """Print the advice and return the exit status."""
    print(_answer(_parser().parse_args(arguments)))
    return 0


def _answer(args: argparse.Namespace) -> str:
    report = _examined(args)
    situation = _situation(args, report)

    def price(plan: FinetunePlan) -> MemoryEstimate:
        return pricing.price(situation.model, plan, situation.gpu)

    def at_least(plan: FinetunePlan) -> int:
        return pricing.least_used_bytes(situation.model, plan, situation.gpu)

    try:
        result = advise(situation, rules=args.rules, price=price, at_least=at_least)
    except TraceError as error:
        if not args.memory_unknown:
            rule = f"is unknown: {clipped(str(error), 180)}"
            raise TraceError("memory", rule, None, "Add --memory-unknown to be advised by rule") from error
        return _by_rule(args, situation, report, by_rule(situation, str(error), rules=args.rules))
    if args.export:
        return _exported(args, situation, report, result.plan)
    if args.json:
        data = {"rows": situation.dataset_rows, "tokens": situation.dataset_tokens, **_recognised(report)}
        return json.dumps(result.to_dict() | {"data": data} | _cost(args, result.speed), indent=2)
    if args.html:
        return cheatsheet.page(situation, result, rules=args.rules)
    page = cheatsheet.markdown(situation, result, rules=args.rules)
    cost = _cost(args, result.speed).get("cost")
    return page if cost is None else f"{page}\nCost at {args.price_per_hour:g} an hour: about {cost:.2f}.\n"


def _by_rule(args: argparse.Namespace, situation: Situation, report: Report | None, result: ByRule) -> str:
    """Return advice for a model that cannot be estimated."""
    print(result.memory, file=sys.stderr)
    if args.export:
        return _exported(args, situation, report, result.plan)
    if args.json:
        return json.dumps(result.to_dict() | {"data": _recognised(report)} | _cost(args, result.speed), indent=2)
    lines = (f"{advice.field} {spelled(advice.value)}: {advice.reason}" for advice in result.advice)
    return "\n".join((*lines, *map(str, result.warnings)))


def _exported(args: argparse.Namespace, situation: Situation, report: Report | None, plan: FinetunePlan) -> str:
    """Return the export, or what was written of it into a folder."""
    name, model, writes = args.data or _DATA, situation.model, plan.task_type == "CAUSAL_LM"
    data = assumed(name, "instruction" if writes and situation.task == "classification" else situation.task)
    if report is not None:
        called = name if is_hub_id(name) else Path(name).name
        reader = _reader(model)
        kind = (model.model_type, model.name)
        data = training_data(_source(args), report, reader, name=called, model=kind)
    made = exported(
        plan,
        args.export,
        data=data,
        model=model,
    )
    if args.to is None:
        others = [*made.files][1:] + ([made.conversion.name] if made.conversion else [])
        if others:
            print(f"It needs {' and '.join(others)} beside it: write them with --to FOLDER.", file=sys.stderr)
        return made.main[1].rstrip("\n")
    return _written(args, made)


def _written(args: argparse.Namespace, made: Export) -> str:
    """Write the files of an export into a folder, with the data where it must be converted; return what was done."""
    folder = Path(args.to)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    lines = [f"Wrote {', '.join(made.files)} into {folder}."]
    if made.conversion is not None:
        reader = _reader(models.find(args.model))
        lines += [made.conversion.why, *conversion.write_all(_source(args), made.conversion, reader.tokenizer, folder)]
    elif args.data and not is_hub_id(args.data):
        lines.append(f"Put {Path(args.data).name} there too.")
    return "\n".join([*lines, f"Run there: {made.command}"])


def _source(args: argparse.Namespace) -> DataSource:
    """Return the data that the arguments name; a data set of the Hub as it was fetched before."""
    path = _fetched(args.data) or Path(args.data)
    return DataSource(
        path=str(path),
        columns=columns_of(args.columns),
        thinking=args.thinking,
        split=args.split,
        evaluation_split=args.evaluate_on,
    )


def _fetched(name: str) -> Path | None:
    """Return the newest file of a data set of the Hub that was fetched for a run or a check."""
    if Path(name).is_file() or not is_hub_id(name):
        return None
    pattern = f"{name.partition('@')[0].replace('/', '--')}-*.parquet"
    found = (paths.cache() / "datasets").glob(pattern)
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _situation(args: argparse.Namespace, report: Report | None) -> Situation:
    gpu, free_bytes = _device(args)
    pins = _pins(args.pin)
    if args.max_length is not None and pins.setdefault("max_length", args.max_length) != args.max_length:
        raise PlanError("max_length", f"is set to {args.max_length} by --max-length", pins["max_length"], "Set it once")
    given = tuple(args.dataset_tokens) if args.dataset_tokens else None
    counted = (report.quantile(0.5), report.quantile(0.95), report.longest) if report else given
    model = with_layers(models.find(args.model))
    data_task_type = task_type_of(report.kinds, model.task_types).name if report else ""
    # An encoder gives out nothing but classes, so a person without data who says classification means them.
    without_data = "SEQ_CLS" if model.is_encoder and args.task == "classification" else "CAUSAL_LM"
    return Situation(
        model=model,
        gpu=gpu,
        num_gpus=args.num_gpus,
        free_bytes=free_bytes if args.free_gib is None else round(_finite("--free-gib", args.free_gib) * GIB),
        dataset_rows=report.rows if report else args.dataset_rows,
        dataset_tokens=counted,
        row_lengths=report.lengths if report else (),
        asks_data=report is not None and report.task != "text" and not args.evaluate_on,
        task=args.task or (TASKS_OF_DATA[kind_for(report.kinds, data_task_type)][0] if report else "instruction"),
        data_task_type=data_task_type or without_data,
        num_labels=report.num_labels if report else 2,
        num_negatives=report.num_negatives if report else 0,
        has_scores=report is not None and report.task == "similarity",
        goal=args.goal,
        pins=pins,
        may_shorten=args.may_shorten,
        model_name_or_path=args.model if args.model.count("/") > 1 or args.model.startswith((".", "/")) else "",
    )


def _examined(args: argparse.Namespace) -> Report | None:
    """Return what the data holds, or None where there is none.

    A data set that is named only for an export does not have to be on this machine.
    """
    if args.data is None or (args.export and not Path(args.data).is_file() and _fetched(args.data) is None):
        return None
    if args.dataset_rows is not None or args.dataset_tokens:
        raise PlanError("--data", "is counted, so --dataset-rows and --dataset-tokens must be left out", args.data)
    reader = _reader(models.find(args.model))
    if not reader.is_own:
        print(f"Counted with {reader.counter}, and {reader.template}.", file=sys.stderr)
    report = doctor.examined(_source(args), reader.tokenizer, task_types=reader.task_types)
    for sentence in _told(report, args, reader.task_types):
        print(sentence, file=sys.stderr)
    return report


def _recognised(report: Report | None) -> dict[str, Any]:
    if report is None:
        return {}
    return {
        "task": report.task,
        "layout": report.layout,
        "skipped": report.skipped,
        "reasons": dict(report.reasons),
        "unused": dict(report.unused),
    }


def _told(report: Report, args: argparse.Namespace, task_types: tuple[str, ...]) -> Iterator[str]:
    """Yield what a person should know about the data: its task, and what of it is not read."""
    kind = kind_for(report.kinds, task_type_of(report.kinds, task_types).name)
    decided, holds = TASKS_OF_DATA[kind]
    if args.task not in {None, decided}:
        if not suits(args.task, kind):
            yield f"The data holds {holds}, but the task you chose is {args.task}, {TASKS[args.task]}."
    elif kind != "answers":
        yield f"The data holds {holds}: the task is {decided}, {TASKS[decided]}. Choose another with --task."
    try:
        require_trained(report.task, args.data)
    except DataError as error:
        yield str(error)
    if report.imbalance:
        yield report.imbalance
    if report.unused:
        yield f"Not read: {', '.join(f'{name} ({count:,} rows)' for name, count in report.unused.items())}."
    if report.skipped:
        yield f"{report.skipped:,} rows are skipped, most of them since: {ended(next(iter(report.reasons)))}"


def _reader(model: ModelSpec) -> Reader:
    """Return whose tokenizer counts: the model's own if it is on this machine, else the demo model's.

    Raises:
        DataError: If neither exists.
    """
    own, demo = tokenizers.folder(model.name), paths.demo_model()
    if own is None and not (demo / "tokenizer.json").is_file():
        raise DataError("--data", f"needs a tokenizer to count tokens, and {demo} has none", None, "Run make setup")
    return readers.reader(
        own, model_type=model.model_type, name=model.name, counted_by=demo, task_types=model.task_types
    )


def _device(args: argparse.Namespace) -> tuple[GpuSpec, int | None]:
    """Return the card named, a card with the memory given, or else this machine's own with its free memory."""
    if args.gpu is not None and args.vram_gib is not None:
        raise PlanError("--vram-gib", "replaces --gpu", args.vram_gib, "Give one of the two")
    if args.gpu is not None:
        return gpus.find(args.gpu), None
    if args.vram_gib is not None:
        return gpus.of_memory(args.vram_gib), None
    device = machine.devices()[0]
    return own_speed.with_curves(device.gpu, device.torch_name), device.free_bytes


def _pins(texts: list[str]) -> dict[str, Any]:
    """Return ``field=value`` pairs as values of plan fields."""
    pins = dict(setting("--pin", text) for text in texts)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in pins.items()}


def _finite(option: str, number: float) -> float:
    if not math.isfinite(number):
        raise PlanError(option, "must be a finite number", number)
    return number


def _cost(args: argparse.Namespace, speed: Any) -> dict[str, Any]:
    """Return the cost of the run, if the person gave a price per hour and the time is known."""
    if args.price_per_hour is None:
        return {}
    if _finite("--price-per-hour", args.price_per_hour) < 0:
        raise PlanError("--price-per-hour", "must be 0 or more", args.price_per_hour)
    if speed is None:
        return {}
    return {"cost": speed.cost(args.price_per_hour)}


def _parser() -> Parser:
    parser = Parser(prog="python -m advisor", description="Recommend settings, each with a reason and a source.")
    parser.add_argument(
        "--model", required=True, help="catalog name, config.json, folder, Hub id, or a size such as 7B"
    )
    parser.add_argument("--vram-gib", type=float, help="plan for any card with this much memory")
    parser.add_argument("--gpu", help="a card from the catalog; default: this machine's own device")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--free-gib", type=float, help="free memory of each device")
    parser.add_argument("--dataset-rows", type=int)
    parser.add_argument("--dataset-tokens", type=int, nargs=3, metavar=("MEDIAN", "P95", "MAX"), help="tokens per row")
    parser.add_argument("--max-length", type=int, help="set max_length")
    parser.add_argument("--may-shorten", action="store_true", help="truncate rows rather than quantize")
    parser.add_argument("--task", help=f"{', '.join(TASKS)}; the data decides by itself, without any it is instruction")
    parser.add_argument("--goal", default="balanced", help=", ".join(GOALS))
    parser.add_argument("--rules", default="evidence", help=", ".join(RULE_SETS))
    parser.add_argument("--pin", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the plan")
    parser.add_argument(
        "--memory-unknown",
        action="store_true",
        help="advise by rule if the model's memory cannot be estimated: the run may then exceed the device",
    )
    parser.add_argument("--price-per-hour", type=float, help="for all devices together")
    parser.add_argument("--export", choices=[*FORMATS], help="print the plan in another form")
    parser.add_argument("--to", metavar="FOLDER", help="write the export there, with what goes with it")
    parser.add_argument("--columns", nargs="+", default=[], metavar="ROLE=COLUMN", help="such as prompt=question")
    parser.add_argument("--thinking", choices=("keep", "drop"), default="keep", help="learn reasoning, or leave it out")
    parser.add_argument("--split", default="train", metavar="NAME", help="of a file that holds several")
    parser.add_argument("--evaluate-on", default="", metavar="NAME", help="the split that is held out, such as test")
    parser.add_argument("--data", help="file whose rows and tokens are counted; exports refer to it")
    parser.add_argument("--html", action="store_true", help="print the cheat sheet as an HTML page")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
