"""Time and cost before a run: what its parts compute, by the speed of the device, with the error of the method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from advisor.rules.schedule import total_steps
from advisor.situation import Situation
from estimator.duration import published, run
from estimator.duration.run import Data
from specs import FinetunePlan
from specs.curves import Curves
from specs.dataset import QUESTIONS, num_learned

MEASURED_ERROR = 0.15
"""Error of a forecast on a measured machine, an assumption: a LoRA step of the demo took 0.94 s of processor time where
0.98 s were forecast (docs/decisions/0305), and what lies around the steps is known less well."""

TRIAL_SECONDS = 170.0
"""How long a trial on a CPU may take, answers included: under three minutes."""
LEAST_STEPS = 20
"""Steps below which the loss of a trial shows nothing."""

EIGHT_BIT_SPREAD = 1.5
"""Factor by which the figures of ``published.EIGHT_BIT_SLOWER`` differ from each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long a run will take: an estimate, right to within the factors of ``band``."""

    seconds_per_step: float
    tokens_per_second: float
    """Tokens of all devices, padding included."""
    steps: int | None
    """Optimizer steps of the whole run; None if the data is unknown."""
    band: tuple[float, float]
    """Factors between which the real time lies on average: the measured error of the method."""
    parts: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Seconds of each part of the run, ``run.PARTS``; empty if the data is unknown."""
    basis: str = ""
    """What the speed rests on, as the end of a sentence."""
    measured: bool = False
    """Whether the device was measured."""
    corrected_by: float = 1.0
    """The factor that finished runs have brought in, ``Curves.corrected_by``."""

    @property
    def total_seconds(self) -> float | None:
        """Time of the whole run; None if the data is unknown."""
        return None if self.steps is None else sum(self.parts.values())

    def cost(self, price_per_hour: float) -> float | None:
        """Return what the run costs at a price per hour of all devices together."""
        return None if self.total_seconds is None else self.total_seconds / 3600 * price_per_hour

    def to_dict(self) -> dict[str, Any]:
        """Return the speed as plain JSON values."""
        return {
            "kind": "estimate",
            "seconds_per_step": self.seconds_per_step,
            "tokens_per_second": self.tokens_per_second,
            "steps": self.steps,
            "total_seconds": self.total_seconds,
            "parts": dict(self.parts),
            "band": list(self.band),
            "basis": self.basis,
            "corrected_by": self.corrected_by,
        }


def step_speed(situation: Situation, plan: FinetunePlan) -> Speed | None:
    """Return the speed of a plan, or None if the device's throughput in the plan's dtype is unknown."""
    curves = curves_for(situation, plan)
    if curves is None:
        return None
    data, steps = _data(situation, plan), total_steps(situation, plan)
    shared, seconds, tokens = _step(situation, plan, curves, data)
    error, basis = _basis(situation)
    spread = situation.gpu.throughput_spread if situation.gpu.measured is None else 1.0
    spread *= EIGHT_BIT_SPREAD if plan.load_in_8bit else 1.0
    parts = {} if steps is None else dict(run.run_seconds(situation.model, plan, curves, data, steps))
    if parts:
        parts[run.TRAINING] *= shared
    return Speed(
        seconds_per_step=seconds,
        tokens_per_second=tokens / seconds,
        steps=steps,
        band=((1 - error) / spread, (1 + error) * spread),
        parts=MappingProxyType(parts),
        basis=basis,
        measured=situation.gpu.measured is not None,
        corrected_by=curves.corrected_by,
    )


def why_unknown(situation: Situation, plan: FinetunePlan) -> str:
    """Return why there is no speed for a plan, in one sentence; empty if there is one."""
    if curves_for(situation, plan) is not None:
        return ""
    return (
        f"No time is given: no throughput in {plan.compute_dtype} is published for {situation.gpu.name}. "
        "The first steps of a run will show it."
    )


def relative_time(situation: Situation, plan: FinetunePlan, other: FinetunePlan) -> float | None:
    """Return the time of a plan for the same data, divided by that of another plan."""
    mine, theirs = _seconds_per_token(situation, plan), _seconds_per_token(situation, other)
    return None if mine is None or theirs is None else mine / theirs


def _seconds_per_token(situation: Situation, plan: FinetunePlan) -> float | None:
    """Return the time that training takes for each token, padding included; None if the device's speed is unknown."""
    curves = curves_for(situation, plan)
    if curves is None:
        return None
    _, seconds, tokens = _step(situation, plan, curves, _data(situation, plan))
    return seconds / tokens


def _step(situation: Situation, plan: FinetunePlan, curves: Curves, data: Data) -> tuple[int, float, float]:
    """Return how many processes share the device, and the seconds and tokens of an optimizer step on all devices."""
    shared = plan.num_gpus if situation.gpu.is_cpu else 1  # several processes on a CPU share its cores
    seconds = shared * run.seconds_per_step(situation.model, plan, curves, data)
    return shared, seconds, run.padded_length(plan, data) * (2 if data.pairs else 1) * plan.effective_batch_size


def curves_for(situation: Situation, plan: FinetunePlan) -> Curves | None:
    """Return the curves of the device, measured or published; None if they lack the plan's dtype."""
    found = situation.gpu.measured or published.published_curves(situation.gpu)
    if found is not None and not found.to_ram:  # measurements leave the bus out
        found = replace(found, to_ram=published.to_ram(situation.gpu))
    return found if found is not None and found.matmul.get(plan.compute_dtype) else None


def _basis(situation: Situation) -> tuple[float, str]:
    """Return the error of the method on the device, and what it rests on."""
    gpu = situation.gpu
    if gpu.measured is not None:
        return MEASURED_ERROR, "measured on this machine"
    if gpu.is_cpu:
        return published.ERROR_OF_PROCESSOR, "calculated from the processor's clock and units"
    if gpu.name in published.FACTORS:
        return published.ERROR_WITH_RUNS, "calculated, and held against published runs on this card"
    if gpu.throughput_spread > 1:  # a memory size alone, which stands for several cards
        return published.ERROR_LEFT_OUT, "calculated from the published peaks of cards of this size"
    return published.ERROR_LEFT_OUT, "calculated from the card's published peaks"


def _data(situation: Situation, plan: FinetunePlan) -> Data:
    rows = situation.dataset_rows
    learned = None if rows is None else num_learned(rows, plan.eval_split, asks_data=situation.asks_data)
    asked = QUESTIONS if situation.asks_data else situation.questions
    return Data(
        rows=learned,
        held_out=0 if rows is None or learned is None or not plan.eval_split else rows - learned,
        row_lengths=situation.row_lengths,
        typical=situation.dataset_tokens,
        questions=asked,
        pairs=situation.task == "preference",
    )


def quick_steps(situation: Situation, plan: FinetunePlan) -> int | None:
    """Return the steps after which a trial on a measured CPU is over in ``TRIAL_SECONDS``; None if it is anyway."""
    if not situation.is_trial or not situation.gpu.is_cpu or situation.gpu.measured is None:
        return None
    found = step_speed(situation, plan)
    if found is None or found.steps is None or (found.total_seconds or 0.0) <= TRIAL_SECONDS:
        return None
    around = sum(found.parts.values()) - found.parts[run.TRAINING]
    steps = int((TRIAL_SECONDS - around) / found.seconds_per_step) - 1
    return min(max(LEAST_STEPS, steps), found.steps)


def choices(found: Mapping[str, Speed], prices: Mapping[str, float], *, here: str = "") -> dict[str, str]:
    """Return the devices to choose between for a plan, by what speaks for each: this one, the fastest, the cheapest.

    Args:
        found: The speed on each device where it is known, quickest first.
        prices: Price per hour of those devices that have one.
        here: The device that was asked about.
    """
    costs = {name: speed.cost(prices[name]) or 0.0 for name, speed in found.items() if name in prices}
    named = {"this device": here if here in found else "", _quickest(found): next(iter(found), "")}
    named["cheapest"] = min(costs, key=costs.__getitem__) if costs else ""
    return {why: name for why, name in named.items() if name}


def _quickest(found: Mapping[str, Speed]) -> str:
    """Return what the first of the devices is called: the fastest only where no other one's range reaches its own."""
    first, *others = [(speed.total_seconds or 0.0, speed.band) for speed in found.values()] or [(0.0, (1.0, 1.0))]
    longest = first[0] * first[1][1]
    return "likely the fastest" if any(seconds * band[0] < longest for seconds, band in others) else "fastest"
