"""The command line: joins catalog, estimator and advisor, and prints a page, JSON, or an export."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

from advisor import GOALS, TASKS, Situation, advise, cheatsheet
from advisor.export import FORMATS, exported
from advisor.rules import RULE_SETS
from catalog import gpus, machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from specs import GIB, DataError, FinetunePlan, GpuSpec, LorafitError, PlanError, paths
from specs.door import run_and_exit, setting
from trainer.data import doctor, tokenizer
from trainer.data.source import DataSource

_DATA = "data.jsonl"
"""What an export calls data that was not named."""


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Leave with the sentence instead of the whole usage."""
        self.exit(2, f"{message[:1].upper()}{message[1:]}. See python -m advisor --help.\n")


def main(arguments: list[str] | None = None) -> int:
    """Print the advice and return the exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        print(_answer(chosen))
    except LorafitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _answer(chosen: argparse.Namespace) -> str:
    situation = _situation(chosen)

    def price(plan: FinetunePlan) -> MemoryEstimate:
        return pricing.price(situation.model, plan, situation.gpu)

    def at_least(plan: FinetunePlan) -> int:
        return pricing.least_used_bytes(situation.model, plan, situation.gpu)

    result = advise(situation, rules=chosen.rules, price=price, at_least=at_least)
    if chosen.export:
        model_type = situation.model.model_type
        return exported(result.plan, chosen.export, data=chosen.data or _DATA, uses_conv1d=model_type == "gpt2")
    if chosen.json:
        data = {"rows": situation.dataset_rows, "tokens": situation.dataset_tokens}
        return json.dumps(result.to_dict() | {"data": data} | _cost(chosen, result.speed), indent=2)
    if chosen.html:
        return cheatsheet.page(situation, result, rules=chosen.rules)
    page = cheatsheet.markdown(situation, result, rules=chosen.rules)
    cost = _cost(chosen, result.speed).get("cost")
    return page if cost is None else f"{page}\nCost at {chosen.price_per_hour:g} an hour: about {cost:.2f}.\n"


def _situation(chosen: argparse.Namespace) -> Situation:
    gpu, free_bytes = _device(chosen)
    pins = _pins(chosen.pin)
    if chosen.max_length is not None and pins.setdefault("max_length", chosen.max_length) != chosen.max_length:
        raise PlanError("max_length", f"is {chosen.max_length} by --max-length", pins["max_length"], "Fix it once")
    rows, lengths = _data(chosen)
    return Situation(
        model=models.find(chosen.model),
        gpu=gpu,
        num_gpus=chosen.num_gpus,
        free_bytes=free_bytes if chosen.free_gib is None else round(_finite("--free-gib", chosen.free_gib) * GIB),
        dataset_rows=rows,
        dataset_tokens=lengths,
        task=chosen.task,
        goal=chosen.goal,
        pins=pins,
        may_shorten=chosen.may_shorten,
        model_name_or_path=chosen.model if chosen.model.count("/") > 1 or chosen.model.startswith((".", "/")) else "",
    )


def _data(chosen: argparse.Namespace) -> tuple[int | None, tuple[int, int, int] | None]:
    """Return the rows of the data and their tokens (median, 95th percentile, longest), as given or counted in a file.

    A data set that is only named for an export need not be on this machine.
    """
    given = tuple(chosen.dataset_tokens) if chosen.dataset_tokens else None
    if chosen.data is None or (chosen.export and not Path(chosen.data).is_file()):
        return chosen.dataset_rows, given
    if chosen.dataset_rows is not None or given is not None:
        raise PlanError("--data", "is counted by itself, without --dataset-rows and --dataset-tokens", chosen.data)
    report = doctor.examined(DataSource(path=chosen.data), tokenizer.FolderTokenizer(_tokenizer(chosen.model)))
    return report.rows, (report.quantile(0.5), report.quantile(0.95), report.lengths[-1])


def _tokenizer(model: str) -> Path:
    """Return the folder whose tokenizer counts: the model's own if it is on this machine, else the demo model's.

    Raises:
        DataError: If there is neither.
    """
    own = (Path(model), paths.cache() / "models" / Path(model).name, paths.demo_model())
    found: Path | None = next((folder for folder in own if (folder / "tokenizer.json").is_file()), None)
    if found is None:
        raise DataError(
            "--data", f"is counted with a tokenizer, and {paths.demo_model()} has none", None, "Run make setup"
        )
    if found == paths.demo_model() and Path(model).name != found.name:
        print(f"Counted with the tokenizer of {found.name}: that of {model} is not on this machine.", file=sys.stderr)
    return found


def _device(chosen: argparse.Namespace) -> tuple[GpuSpec, int | None]:
    """Return the card that was named, one of that memory, or this machine's own with its free memory."""
    if chosen.gpu is not None and chosen.vram_gib is not None:
        raise PlanError("--vram-gib", "stands instead of --gpu", chosen.vram_gib, "Give one of the two")
    if chosen.gpu is not None:
        return gpus.find(chosen.gpu), None
    if chosen.vram_gib is not None:
        return gpus.of_memory(chosen.vram_gib), None
    device = machine.devices()[0]
    return device.gpu, device.free_bytes


def _pins(texts: list[str]) -> dict[str, Any]:
    """Return ``field=value`` pairs as the fields of a plan hold them."""
    pins = dict(setting("--pin", text) for text in texts)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in pins.items()}


def _finite(option: str, number: float) -> float:
    if not math.isfinite(number):
        raise PlanError(option, "must be a finite number", number)
    return number


def _cost(chosen: argparse.Namespace, speed: Any) -> dict[str, Any]:
    """Return the price of the run where the person gave one per hour and the time is known."""
    if chosen.price_per_hour is None:
        return {}
    if _finite("--price-per-hour", chosen.price_per_hour) < 0:
        raise PlanError("--price-per-hour", "must be 0 or more", chosen.price_per_hour)
    if speed is None:
        return {}
    return {"cost": speed.cost(chosen.price_per_hour)}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m advisor", description="Recommended settings, each with reason and source.")
    parser.add_argument(
        "--model", required=True, help="catalog name, config.json, folder, Hub id, or a size such as 7B"
    )
    parser.add_argument("--vram-gib", type=float, help="any card with so much memory")
    parser.add_argument("--gpu", help="a card of the catalog; without both this machine's own device")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--free-gib", type=float, help="free memory of each device")
    parser.add_argument("--dataset-rows", type=int)
    parser.add_argument("--dataset-tokens", type=int, nargs=3, metavar=("MEDIAN", "P95", "MAX"), help="tokens of a row")
    parser.add_argument("--max-length", type=int, help="fix max_length")
    parser.add_argument("--may-shorten", action="store_true", help="cut rows rather than quantize")
    parser.add_argument("--task", default="instruction", help=", ".join(TASKS))
    parser.add_argument("--goal", default="balanced", help=", ".join(GOALS))
    parser.add_argument("--rules", default="evidence", help=", ".join(RULE_SETS))
    parser.add_argument("--pin", action="append", default=[], metavar="FIELD=VALUE", help="fix a field of the plan")
    parser.add_argument("--price-per-hour", type=float, help="of all devices together")
    parser.add_argument("--export", choices=[*FORMATS], help="print the plan in another form")
    parser.add_argument("--data", help="file whose rows and tokens are counted, and that an export names")
    parser.add_argument("--html", action="store_true", help="the cheat sheet as a page to print")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
