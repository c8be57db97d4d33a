"""Runs as jobs of Slurm, through submitit."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specs import RunError
from specs.paths import REPO
from trainer.away.shared import SharedFolder
from trainer.runs.contract import Run
from trainer.runs.places import Where

_ENDED = frozenset(
    {
        "FINISHED",
        "INTERRUPTED",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "BOOT_FAIL",
        "DEADLINE",
        "PREEMPTED",
    }
)
"""States in which no more comes of a job: https://slurm.schedmd.com/job_state_codes.html, the first two of submitit's
local jobs."""
_DAY_MINUTES = 1440
"""How long a job may take unless its place says otherwise with ``minutes``. A choice: partitions often allow a day."""


class Slurm:
    """Slurm as submitit reaches it from this machine; ``cluster=local`` runs jobs here instead, to try it."""

    settling_seconds = 5.0

    def __init__(self, place: Where) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise RunError(place.short, "needs the package submitit", None, "Run .venv/bin/pip install submitit")
        self._place = place
        self._submitit: Any = importlib.import_module("submitit")
        self._jobs: dict[str, Any] = {}

    def check(self) -> str:
        """Return that jobs can be submitted."""
        cluster = self._submitit.AutoExecutor.which()
        if cluster != "slurm" and not self._place.option("cluster"):
            rule = "needs Slurm's commands on this machine"
            raise RunError(self._place.short, rule, None, "Start LoRAFit on a login node, or send runs there with ssh")
        return "jobs can be submitted"

    def submit(self, command: Sequence[str], folder: Path, run: Run) -> str:
        """Submit a job with as many cards as the plan has."""
        executor = self._submitit.AutoExecutor(folder=folder, cluster=self._place.option("cluster") or None)
        cards = run.plan.num_gpus if run.place.card.startswith("cuda") else 0
        wanted = {name: self._place.option(name) for name in ("partition", "account", "qos")}
        try:
            executor.update_parameters(
                name="lorafit",
                timeout_min=int(self._place.option("minutes", str(_DAY_MINUTES))),
                gpus_per_node=cards,
                **{f"slurm_{name}": value for name, value in wanted.items() if value},
            )
            job = executor.submit(self._submitit.helpers.CommandFunction(list(command), cwd=REPO))
        except (self._submitit.core.utils.FailedJobError, OSError, ValueError) as error:
            raise RunError(self._place.short, "did not take the job", str(error)) from error
        self._jobs[job.job_id] = job
        return str(job.job_id)

    def ended(self, job: str, folder: Path) -> str:
        """Return the state in which a job ended."""
        if not job:
            return ""
        state = str(self._job(job, folder).state).split()[0].rstrip("+")
        return state if state in _ENDED else ""

    def cancel(self, job: str, folder: Path) -> None:
        """Cancel a job."""
        if job:
            self._job(job, folder).cancel(check=False)

    def _job(self, job: str, folder: Path) -> Any:
        if job not in self._jobs:
            kind = self._submitit.LocalJob if self._place.option("cluster") == "local" else self._submitit.SlurmJob
            self._jobs[job] = kind(folder, job)
        return self._jobs[job]


def executor(place: Where) -> SharedFolder:
    """Return the executor of a place such as ``slurm:///shared/folder?partition=gpu``."""
    return SharedFolder(place, Slurm(place))
