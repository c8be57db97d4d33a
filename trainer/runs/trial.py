"""Tries whether a plan's adapter fits a model, where only the model's own code knows: without weights, in a process."""

import os
import subprocess
import sys
from collections.abc import Sequence

from specs import FinetunePlan
from specs.paths import REPO
from trainer.failure import PassedOnError


def needs_trial(plan: FinetunePlan, linear_modules: Sequence[str]) -> bool:
    """Return whether the names of a model's modules do not tell: they are not known, or an expression is to match."""
    if not linear_modules:
        return True
    named = isinstance(plan.target_modules, tuple) or plan.target_modules == "all-linear"
    patterns = (name for pattern in (plan.rank_pattern, plan.alpha_pattern) for name, _ in pattern)
    return not named or not all(name.isidentifier() for name in patterns)


def require_buildable(plan: FinetunePlan, model: str) -> None:
    """Refuse a plan whose model cannot be built, or whose adapter finds nothing in it.

    Raises:
        PassedOnError: With the sentence of the training stack.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.model.trial", model],
        cwd=REPO,
        env=environment,
        input=plan.to_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.strip().splitlines()
    if done.returncode == _REFUSED and said:
        raise PassedOnError(said[-1])


_REFUSED = 2
"""The exit status of a trial that ends in a sentence; whatever else ends it says nothing about the plan."""
