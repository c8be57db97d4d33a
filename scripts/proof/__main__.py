"""Trains advised plans against the fixed recipes of others, and writes the table into docs/proof.md.

What was interrupted goes on where it was; what is done is not done again.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from catalog import here
from scripts.proof.datasets import DATA_SETS, file_of
from scripts.proof.recipes import MODEL, contest
from scripts.proof.table import page
from specs import paths
from specs.doors.door import Parser, door, run_and_exit
from trainer.commands.showing import watch
from trainer.data.source import DataSource
from trainer.runs import launcher
from trainer.runs.contract import Place, Run
from trainer.runs.starting import Starter
from trainer.runs.store import Store

_PAGE = paths.REPO / "docs" / "proof.md"
_SEEDS, _SECONDS = 3, 120.0
_MOST_SECONDS = 86_400.0


@door
def main(arguments: Sequence[str]) -> int:
    """Train what is missing, write the page, and return the exit status."""
    given = _parser().parse_args(arguments)
    store = Store(paths.cache() / "proof" / "runs")
    runs: dict[str, Run] = {}
    for name in DATA_SETS:
        known = _known(store, name, given)
        if not given.write and (not given.only or name in given.only):
            known = _trained(store, name, given)
        if known is not None:
            runs[name] = known
    _PAGE.write_text(page(runs, seconds=given.seconds, seeds=given.seeds, machine=_machine()), encoding="utf-8")
    print(f"Wrote {_PAGE}.")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m scripts.proof", description="Advised plans against fixed recipes, at equal time.")
    parser.add_argument("--seconds", type=_seconds, default=_SECONDS, help="of each training, by forecast")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=_SEEDS, metavar="N")
    parser.add_argument("--only", nargs="+", choices=tuple(DATA_SETS), default=[], help="data sets to train on")
    parser.add_argument("--write", action="store_true", help="only write the page from what is trained so far")
    return parser


def _seconds(text: str) -> float:
    number = float(text)
    if not 1 <= number <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be 1 to {_MOST_SECONDS:,.0f}")
    return number


def _trained(store: Store, name: str, given: argparse.Namespace) -> Run:
    """Train what is missing of a data set's plans; wait for a worker that trains already."""
    run = _known(store, name, given) or _created(store, name, given)
    if run.is_resumable:
        Starter(store, here).resume(run.id)
    elif not run.is_over:
        launcher.launch(store, run.id)
    print(f"{name}: {run.id}")
    watch(store, run.id)
    return store.run(run.id)


def _created(store: Store, name: str, given: argparse.Namespace) -> Run:
    file = file_of(name)
    found = contest(file, seconds=given.seconds, seeds=given.seeds)
    place = Place(model_path=str(paths.demo_model()), token=_token(name, given))
    return store.create(found.shared, DataSource(path=str(file)), place=place, race=found.race)


def _known(store: Store, name: str, given: argparse.Namespace) -> Run | None:
    """Return the run of a data set that was begun with the same arguments."""
    token = _token(name, given)
    return next((run for run in store.runs() if run.place.token == token), None)


def _token(name: str, given: argparse.Namespace) -> str:
    asked = json.dumps([name, given.seconds, given.seeds, MODEL])
    return f"proof {hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def _machine() -> str:
    """Return what is trained on, with versions and date."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "a CPU",
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{os.cpu_count()} cores of {cpu} with {MODEL}, {libraries}, {datetime.now(UTC):%Y-%m-%d}"


if __name__ == "__main__":
    run_and_exit(main)
