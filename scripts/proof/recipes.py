"""What is compared: the advised plan of a data set, and the fixed recipes of others, each for as long."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor import speed
from lorafit import asked
from specs import FinetunePlan, PlanError
from specs.dataset import share_to_hold_out
from trainer.runs.race import Race
from trainer.runs.varied import with_values

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ADVISED = "advised"
SHOWN = ("learning_rate", "r", "lora_alpha", "lora_dropout", "lr_scheduler_type")
"""What is told of a plan besides its batch and its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings that another tool proposes for every model and data set."""

    values: Mapping[str, Any]
    batch: tuple[int, int]
    """Sequences at once, and passes for each step."""
    source: str


_SAME: Mapping[str, Any] = {
    "method": "lora",
    "target_modules": "all-linear",
    "use_rslora": False,
    "loraplus_lr_ratio": None,
    "optim": "adamw_torch_fused",
    "warmup_steps": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}
"""What all recipes have in common unless they say otherwise; 8-bit optimizers need a GPU."""

RECIPES: Mapping[str, Recipe] = {
    "TRL": Recipe(
        values={"learning_rate": 2e-4, "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "lr_scheduler_type": "linear"},
        batch=(2, 8),
        source="TRL 1.16: rank, alpha and dropout of ModelConfig, rate and batch of the example in trl/scripts/sft.py",
    ),
    "LLaMA-Factory": Recipe(
        values={"learning_rate": 5e-5, "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lr_scheduler_type": "cosine"},
        batch=(2, 8),
        source="LLaMA-Factory 0.9.5, the defaults of its board: 5e-5, batch 2 x 8, cosine, LoRA rank 8, alpha 16",
    ),
    "H2O LLM Studio": Recipe(
        values={"learning_rate": 1e-4, "r": 4, "lora_alpha": 16, "lora_dropout": 0.05, "lr_scheduler_type": "cosine"},
        batch=(2, 1),
        source="H2O LLM Studio, the defaults of an experiment: 1e-4, batch 2, cosine, LoRA rank 4, alpha 16",
    ),
    "Unsloth": Recipe(
        values={
            "learning_rate": 2e-4,
            "r": 16,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "lr_scheduler_type": "linear",
            "warmup_steps": 5.0,
            "weight_decay": 0.001,
        },
        batch=(2, 4),
        source="Unsloth's notebooks: 2e-4, rank 16, alpha 16, batch 2 x 4, 5 steps of warm-up, weight decay 0.001",
    ),
}
"""Every recipe that the advised plan is held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The plans that are trained on one data set."""

    shared: FinetunePlan
    """The advised plan, with what all have in common."""
    race: Race
    names: tuple[str, ...]
    """What the plans are called, in the order of the race's groups."""


def contest(data: Path, *, seconds: float, seeds: int) -> Contest:
    """Return the plans for a data set, each with as many steps as take so long on this machine by forecast.

    Raises:
        PlanError: If this machine's speed is not known.
    """
    found = asked.looked_up(asked.Question(model=MODEL, data=data, pins={"method": "lora"}))
    situation, rows = found.situation, found.situation.dataset_rows or 0
    common: dict[str, Any] = {
        "eval_split": float(f"{share_to_hold_out(rows):.2g}"),
        "save_steps": 100_000,
        "logging_steps": 1,
    }
    common |= {"load_best_model_at_end": False, "early_stopping_patience": None, "report_to": "none"}
    whole = with_values(asked.recommended(situation).plan, common)
    # Warm-up and schedule are advised for as many steps as there is time for.
    steps = {"max_steps": _timed(situation, whole, seconds).max_steps}
    asking = dataclasses.replace(situation, pins={**situation.pins, **common, **steps})
    shared = asked.recommended(asking).plan
    plans = {ADVISED: shared, **{name: _fixed(shared, recipe) for name, recipe in RECIPES.items()}}
    timed = [_timed(situation, plan, seconds) for plan in plans.values()]
    each = [dataclasses.replace(plan, seed=shared.seed + number) for plan in timed for number in range(seeds)]
    described = [plan.to_dict() for plan in each]
    differing = [name for name in described[0] if any(one[name] != described[0][name] for one in described)]
    changes = tuple({name: one[name] for name in differing} for one in described)
    race = Race(varied=tuple(name for name in SHOWN if name in differing), changes=changes, own=0, repeats=seeds)
    return Contest(shared=timed[0], race=race, names=tuple(plans))


def _fixed(shared: FinetunePlan, recipe: Recipe) -> FinetunePlan:
    """Return a recipe on the data and the device of the advised plan: its length, formats and held-out rows."""
    micro, passes = recipe.batch
    batch = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": passes}
    return with_values(shared, {**_SAME, **recipe.values, **batch})


def _timed(situation: Any, plan: FinetunePlan, seconds: float) -> FinetunePlan:
    forecast = speed.step_speed(situation, plan)
    if forecast is None:
        raise PlanError("proof", "needs the speed of this machine", None, "Run python -m estimator calibrate")
    return dataclasses.replace(plan, max_steps=max(1, round(seconds / forecast.seconds_per_step)))
