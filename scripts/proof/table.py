"""The page of the proof: what was trained, what came out of it, and what is told apart."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from scripts.proof.datasets import DATA_SETS
from scripts.proof.recipes import ADVISED, RECIPES, SHOWN
from trainer.runs.ablation import Result, results
from trainer.runs.contract import Run
from trainer.runs.race import shown

_HEAD = ("plan", *SHOWN, "batch", "steps", "seconds each", "held-out loss", "minus advised, paired", "verdict")


def page(runs: Mapping[str, Run], *, seconds: float, seeds: int, machine: str) -> str:
    """Return the page as Markdown.

    Args:
        runs: The ablation of each data set that was begun.
        seconds: What each training was given by forecast.
        seeds: Trainings of each plan.
        machine: What was trained on, with versions and date.
    """
    parts = [
        "# Advised plans against the fixed recipes of others",
        _method(seconds, seeds, machine),
        "\n".join(["The recipes, each the same for every model and data set:", "", *_sources()]),
        *(f"## {name.capitalize()}\n\n{_part(name, runs.get(name))}" for name in DATA_SETS),
    ]
    return "\n\n".join(parts) + "\n"


_METHOD = """`make proof` trained these on {machine}.
Every plan got as many steps as take {seconds:g} s there by LoRAFit's forecast, its schedule over these steps, and
{seeds} seeds. All plans of a data set learn and hold out the same rows, on the same loaded model, in the same number
formats and at the same `max_length`; optimizers in 8 bit, which need a GPU, became AdamW. *Seconds each* is the
measured processor time. A lower loss is better; two are told apart if the mean of the paired differences is more than
two of its standard errors: with three seeds a weak test. The advice knew the model, this machine and what the data set
holds, not its losses."""


def _method(seconds: float, seeds: int, machine: str) -> str:
    return _METHOD.format(seconds=seconds, seeds=seeds, machine=machine)


def _sources() -> Iterator[str]:
    yield from (f"- **{name}**: {recipe.source}." for name, recipe in RECIPES.items())


def _part(name: str, run: Run | None) -> str:
    about = f"{DATA_SETS[name].holds[0].upper()}{DATA_SETS[name].holds[1:]}."
    if run is None or run.race is None or not run.race.losses:
        return f"{about} Not run yet."
    found = results(run.race, run.plan)
    if len(found) != len(RECIPES) + 1:
        return f"{about} Trained with other recipes."
    rows = [*_rows(run, found)]
    lines = [" | ".join(cells) for cells in (_HEAD, ["---"] * len(_HEAD), *rows)]
    return "\n".join([about, "", *(f"| {line} |" for line in lines)])


def _rows(run: Run, found: Sequence[Result]) -> Iterator[list[str]]:
    race = run.race
    if race is None:
        return
    for number, (name, result) in enumerate(zip((ADVISED, *RECIPES), found, strict=True)):
        plan = race.plan_of(number * race.repeats, run.plan)
        settings = [shown(getattr(plan, field)) for field in SHOWN]
        batch = f"{plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}"
        taken = "" if result.seconds is None else f"{result.seconds:.0f}"
        said = result.said or ("not run yet" if not result.out else result.out)
        if len(result.losses) < result.seeds and result.losses:
            said += f" ({len(result.losses)} of {result.seeds} seeds)"
        yield [name, *settings, batch, str(plan.max_steps), taken, said, *_against(found[0], result, first=not number)]


def _against(advised: Result, other: Result, *, first: bool) -> list[str]:
    """Return how far a plan's loss is from the advised one's, seed by seed, and what that says."""
    gaps = [theirs - ours for ours, theirs in zip(advised.losses, other.losses, strict=False)]
    if first or not gaps:
        return ["", ""]
    mean = statistics.fmean(gaps)
    if len(gaps) < 2:
        return [f"{mean:+.4f}", "one seed tells nothing apart"]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    said = f"{mean:+.4f} ± {error:.4f}"
    if abs(mean) <= 2 * error:
        return [said, "not told apart"]
    return [said, "advised is better" if mean > 0 else "advised is worse"]
