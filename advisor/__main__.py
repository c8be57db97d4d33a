"""The command line: combines catalog, estimator and advisor, and prints a page, JSON or an export."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advisor import GOALS, TASKS, ByRule, Situation, by_rule, cheatsheet
from advisor.advice import spelled
from advisor.export import FORMATS, Export, assumed, exported
from advisor.rules import RULE_SETS
from catalog import gpus, models
from estimator.tape.layers import with_layers
from lorafit import asked
from specs import GIB, FinetunePlan, GpuSpec, PlanError, TraceError
from specs.doors.door import Parser, door, run_and_exit, setting
from specs.errors import clipped
from trainer.data import conversion, doctor
from trainer.data.doctor import Report
from trainer.data.files.reading import is_hub_id
from trainer.data.known import training_data
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

    try:
        result = asked.recommended(situation, rules=args.rules)
    except TraceError as error:
        if not args.memory_unknown:
            rule = f"is unknown: {clipped(str(error), 180)}"
            raise TraceError("memory", rule, None, "Add --memory-unknown to be advised by rule") from error
        return _by_rule(args, situation, report, by_rule(situation, str(error), rules=args.rules))
    if args.export:
        return _exported(args, situation, report, result.plan)
    if args.json:
        data = {"rows": situation.dataset_rows, "tokens": situation.dataset_tokens, **asked.recognised(report)}
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
        return json.dumps(result.to_dict() | {"data": asked.recognised(report)} | _cost(args, result.speed), indent=2)
    lines = (f"{advice.field} {spelled(advice.value)}: {advice.reason}" for advice in result.advice)
    return "\n".join((*lines, *map(str, result.warnings)))


def _exported(args: argparse.Namespace, situation: Situation, report: Report | None, plan: FinetunePlan) -> str:
    """Return the export, or what was written of it into a folder."""
    name, model, writes = args.data or _DATA, situation.model, plan.task_type == "CAUSAL_LM"
    data = assumed(name, "instruction" if writes and situation.task == "classification" else situation.task)
    if report is not None:
        called = name if is_hub_id(name) else Path(name).name
        reader = asked.reader(model)
        kind = (model.model_type, model.name)
        data = training_data(_source(args), report, reader, name=called, model=kind)
    made = exported(
        plan,
        args.export,
        data=data,
        model=model,
        gpu=situation.gpu,
        nodes=args.nodes,
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
        reader = asked.reader(models.find(args.model))
        lines += [made.conversion.why, *conversion.write_all(_source(args), made.conversion, reader.tokenizer, folder)]
    elif args.data and not is_hub_id(args.data):
        lines.append(f"Put {Path(args.data).name} there too.")
    return "\n".join([*lines, f"Run there: {made.command}"])


def _source(args: argparse.Namespace) -> DataSource:
    """Return the data that the arguments name; a data set of the Hub as it was fetched before."""
    path = asked.fetched(args.data) or Path(args.data)
    return DataSource(
        path=str(path),
        columns=columns_of(args.columns),
        thinking=args.thinking,
        split=args.split,
        evaluation_split=args.evaluate_on,
    )


def _situation(args: argparse.Namespace, report: Report | None) -> Situation:
    gpu, free_bytes = _device(args)
    pins = _pins(args.pin)
    if args.max_length is not None and pins.setdefault("max_length", args.max_length) != args.max_length:
        raise PlanError("max_length", f"is set to {args.max_length} by --max-length", pins["max_length"], "Set it once")
    given = {"dataset_rows": args.dataset_rows, "dataset_tokens": tuple(args.dataset_tokens or ()) or None}
    model = with_layers(models.find(args.model))
    if report is None:
        held = {**given, "data_task_type": asked.task_without_data(model, args.task)}
    else:
        held = {**asked.facts(report, model.task_types), "asks_data": asked.asks_data(_source(args), report)}
    return Situation(
        model=model,
        gpu=gpu,
        num_gpus=args.num_gpus,
        free_bytes=free_bytes if args.free_gib is None else round(_finite("--free-gib", args.free_gib) * GIB),
        goal=args.goal,
        pins=pins,
        may_shorten=args.may_shorten,
        model_name_or_path=asked.plain_name(args.model),
        **{**held, **({"task": args.task} if args.task else {})},
    )


def _examined(args: argparse.Namespace) -> Report | None:
    """Return what the data holds, or None where there is none.

    A data set that is named only for an export does not have to be on this machine.
    """
    if args.data is None or (args.export and not Path(args.data).is_file() and asked.fetched(args.data) is None):
        return None
    if args.dataset_rows is not None or args.dataset_tokens:
        raise PlanError("--data", "is counted, so --dataset-rows and --dataset-tokens must be left out", args.data)
    reader = asked.reader(models.find(args.model))
    for sentence in asked.stand_ins(reader):
        print(sentence, file=sys.stderr)
    report = doctor.examined(_source(args), reader.tokenizer, task_types=reader.task_types)
    for sentence in asked.remarks(report, args.data, args.task, reader.task_types, option="--task"):
        print(sentence, file=sys.stderr)
    return report


def _device(args: argparse.Namespace) -> tuple[GpuSpec, int | None]:
    """Return the card named, a card with the memory given, or else this machine's own with its free memory."""
    if args.gpu is not None and args.vram_gib is not None:
        raise PlanError("--vram-gib", "replaces --gpu", args.vram_gib, "Give one of the two")
    return asked.device(args.gpu) if args.vram_gib is None else (gpus.of_memory(args.vram_gib), None)


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
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="machines that share the devices, in an export"
    )
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
