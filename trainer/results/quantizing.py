"""A run's model rounded to fewer bits: starts the process that does it, and tells what is kept and what it costs.

Loads no model itself. What is kept lies in the run's folder, and is a voice of the run's conversation.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import TASK_TYPES, RunError
from trainer import files
from trainer.results import tasks
from trainer.results.chat import refuse_while_in_use
from trainer.runs.contract import Run
from trainer.runs.export import QUANTIZED, result_folder
from trainer.runs.launcher import worker_environment
from trainer.runs.store import Store

FOUND = "quantized.json"
"""What was measured, within the folder of the quantized model."""
TORCHAO = "torchao==0.18.0"
"""Not among LoRAFit's packages: one way needs it alone."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to round the weights of linear layers after training, without any data."""

    label: str
    about: str
    package: str = ""
    """What has to be installed for it besides LoRAFit's packages."""

    @property
    def lacks(self) -> str:
        """The command that installs what is missing; empty if nothing is."""
        is_here = not self.package or importlib.util.find_spec(self.package.partition("==")[0])
        return "" if is_here else f"{sys.executable} -m pip install {self.package}"


WAYS: Mapping[str, Way] = {
    "nf4": Way("NF4", "4 bit, bitsandbytes: 16 values that split a normal distribution evenly, in blocks of 64"),
    "fp4": Way("FP4", "4 bit, bitsandbytes: 16 values of a tiny floating-point number, in blocks of 64"),
    "int8": Way("INT8", "8 bit, bitsandbytes (LLM.int8): one scale for each row; outliers are computed in 16 bit"),
    "torchao-int8": Way("INT8, torchao", "8 bit, torchao: one scale for each row, weights alone", TORCHAO),
}
"""Every way, by the name that commands know it by."""


def quantized(store: Store, run: Run, way: str) -> Mapping[str, Any]:
    """Round a run's model, keep it in the run's folder, and return what was measured before and after.

    Raises:
        RunError: If there is no such way, the run's model writes no text or is not saved, its device is in use, or a
            package is missing.
        PassedOnError: If it cannot be merged, loaded or rounded.
    """
    result_folder(store, run)
    if way not in WAYS:
        raise RunError("--to", f"must be one of {', '.join(WAYS)}", way)
    if run.plan.task_type != "CAUSAL_LM":
        rule = f"is for models of text generation, not of {TASK_TYPES[run.plan.task_type].label}"
        raise RunError("quantization", rule, None, "Merge it instead")
    if lacks := WAYS[way].lacks:
        raise RunError(
            f"--to {way}", f"needs {WAYS[way].package}, which is not installed", None, f"Install it: {lacks}"
        )
    refuse_while_in_use(store, run, "quantization")
    environment = worker_environment(run, os.environ)
    tasks.carry_out("trainer.worker.quantizing", str(store.folder), run.id, way, environment=environment)
    return kept(store, run)[way]


def kept(store: Store, run: Run) -> dict[str, Mapping[str, Any]]:
    """Return what was measured of each quantized model that is kept of a run's present result, by its way."""
    found = {}
    for way in WAYS:
        try:
            text = (folder(store, run, way) / FOUND).read_text(encoding="utf-8")
            found[way] = json.loads(text)
        except (OSError, ValueError):
            continue
    return found


def folder(store: Store, run: Run, way: str) -> Path:
    """Return where a quantized model is kept; its name says after which step it was made."""
    return store.run_folder(run.id) / QUANTIZED.format(f"{run.result_step}-{way}")


def require_target(target: Path) -> None:
    """Refuse a folder that a quantized model cannot be copied into, before anything is computed.

    Raises:
        RunError: If it is not new, or cannot be written.
    """
    files.require_new(target)


def copied(store: Store, run: Run, way: str, target: Path) -> Path:
    """Copy a quantized model into a new folder, and return it.

    Raises:
        RunError: If the folder is not new.
    """
    files.require_new(target)
    with files.replaced(target) as new:
        shutil.copytree(folder(store, run, way), new, dirs_exist_ok=True)
    return target
