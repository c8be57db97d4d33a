"""Short tasks of the training stack, each in a separate process: merging or combining adapters, fetching data."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from specs import RunError, paths
from specs.paths import REPO
from trainer import files
from trainer.data.files.reading import is_hub_id
from trainer.failure import PassedOnError
from trainer.runs import combinations
from trainer.runs.contract import RESULT, Run
from trainer.runs.store import Store

COMBINATION_TYPES = {
    "cat": "exact; the rank is the sum of all ranks",
    "svd": "closest approximation of the highest rank",
    "linear": "adds the factors; quick and rough; needs equal ranks",
}
"""Ways to combine adapters, as PEFT names them: https://huggingface.co/docs/peft/developer_guides/model_merging."""


def merge(store: Store, run_id: str, target: Path) -> Path:
    """Write the base model with a run's adapter merged in, and return its folder.

    Raises:
        PassedOnError: If that run cannot be merged.
    """
    carry_out("trainer.results.merge", str(store.folder), run_id, str(target))
    return target


def combine(store: Store, run_ids: Sequence[str], weights: Sequence[float], combination_type: str) -> Run:
    """Add the weighted sum of adapters as a run of its own, and return it.

    Raises:
        RunError: If there are too few runs, one is named twice, or there is not one number per run, which adds it.
        PassedOnError: If these adapters cannot be combined.
    """
    if len(set(run_ids)) < 2:
        raise RunError("combine", "needs at least two different runs", len(set(run_ids)))
    twice = next((run_id for run_id in run_ids if run_ids.count(run_id) > 1), None)
    if twice is not None:
        raise RunError("combine", "must name each run once", twice, "Give it a higher weight instead")
    if not all(map(math.isfinite, weights)) or not any(weights):
        raise RunError("weights", "must be finite numbers, not all of them 0", list(weights))
    if len(weights) != len(run_ids):
        raise RunError("weights", f"must be one per run, {len(run_ids)} in total", list(weights))
    if combination_type not in COMBINATION_TYPES:
        raise RunError("combination_type", f"must be one of {', '.join(COMBINATION_TYPES)}", combination_type)
    # Only ids from the store may become part of a command.
    runs = [store.run(run_id) for run_id in run_ids]
    pairs = [f"{run.id}={weight!r}" for run, weight in zip(runs, weights, strict=True)]
    with files.scratch_folder(store.folder) as scratch:
        target = scratch / RESULT
        carry_out("trainer.results.combine", str(store.folder), str(target), combination_type, *pairs)
        return combinations.added(store, runs, weights, combination_type, target)


def fetch_dataset(name: str, folder: Path) -> Path:
    """Download a data set from the Hub into a folder, unless it is already there, and return its file.

    Raises:
        PassedOnError: If it cannot be fetched.
    """
    return Path(carry_out("trainer.data.files.hub_datasets", name, str(folder)).strip())


def data_file(given: Path) -> str:
    """Return the real path of a file of data; one that is named by its Hub id is fetched."""
    path = given
    if not path.is_file() and is_hub_id(str(path)):
        path = fetch_dataset(str(path), paths.cache() / "datasets")
    return os.path.realpath(path)


def carry_out(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a module of the training stack to its end, without any GPU unless told otherwise; return what it printed.

    Args:
        module: Its name.
        arguments: What it is given.
        environment: That of a process that may use the devices of a run.

    Raises:
        PassedOnError: With the last sentence that it wrote, if it ended with an error.
    """
    environment = {
        **(environment or {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=REPO, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [
            str(RunError(module, "ended without giving a reason", done.returncode))
        ]
        raise PassedOnError(said[-1])
    return done.stdout
