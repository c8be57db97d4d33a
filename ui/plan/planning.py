"""From the inputs to a recommendation: joins catalog, advisor and estimator. Draws nothing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from advisor import Advice, Recommendation, Situation, advise
from advisor.rules import RULE_SETS
from advisor.search import Search, drafted
from advisor.situation import TASKS, TASKS_OF_DATA
from catalog import gpus, machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from estimator.replay.live_tensors import Tensors, alive_at_peak
from estimator.replay.replay import Replay
from estimator.tape import library
from specs import MIB, FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError, paths
from specs.fields import PATTERNS
from trainer.data.examples import require_trained
from trainer.runs.contract import Place
from trainer.runs.feasibility import Ground, require_feasible
from ui.parts import notices, prices
from ui.parts.examining import facts, reader_for
from ui.plan import fields
from ui.plan.datasets import Data, find
from ui.plan.forms import Inputs

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HERE = "This machine: "
SIDE_BY_SIDE = ("full", "lora", "qlora")
"""The methods that every plan is compared with."""

_ANY_CARD = "any card with "
"""How the catalog begins the name of a card that is known by its memory alone."""
_GRAIN = 256 * MIB
"""Free memory is rounded down to a multiple of this, so that an untouched page keeps showing the same numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The inputs, looked up."""

    situation: Situation
    rules: str
    data: Data
    device: str | None
    """Torch's name of the device if this machine has it; only then can a run start from the page."""
    price_per_hour: float | None = None

    @property
    def gpu(self) -> GpuSpec:
        """The device, limited to its free memory."""
        return dataclasses.replace(self.situation.gpu, usable_bytes=self.situation.available_bytes)

    @property
    def ground(self) -> Ground:
        """What a run from this page is held against."""
        return Ground(
            device=self.device or "cpu",
            compute_capabilities=machine.compute_capabilities(),
            linear_modules=self.situation.model.linear_modules,
            has_pairs=self.data.report.task == "preference",
        )

    def price(self, plan: FinetunePlan) -> MemoryEstimate:
        """Return what a plan needs on the device."""
        return prices.priced(self.situation.model, self.situation.as_priced(plan), self.gpu)

    def at_least(self, plan: FinetunePlan) -> int:
        """Return what a plan needs on the device at the very least."""
        return pricing.least_used_bytes(self.situation.model, self.situation.as_priced(plan), self.gpu)

    def place(self, token: str) -> Place:
        """Return where to execute a run of this request; the token makes a double click start one run only."""
        folder = str(paths.demo_model()) if self.situation.model.name == DEMO_MODEL else ""
        return Place(device=self.device or "cpu", model_path=folder, token=token)


def model_names() -> list[str]:
    """Return the models to choose from, the one that is ready to train first."""
    return [DEMO_MODEL, *(name for name in models.names() if name != DEMO_MODEL)]


def device_names() -> list[str]:
    """Return the devices to choose from, this machine's own first."""
    return [*_here(), *gpus.names()]


def linear_modules(model: str) -> tuple[str, ...]:
    """Return the modules that an adapter may target; empty for a model that cannot be found."""
    try:
        return models.find(model).linear_modules
    except LorafitError:
        return ()


def request(inputs: Inputs, method: Mapping[str, str]) -> Request:
    """Look up what was chosen.

    Args:
        inputs: The form.
        method: The method that the user chose, as a pin, or empty.

    Raises:
        LorafitError: If a model, device, file or setting cannot be used; the message names it.
    """
    here = _here().get(inputs.device)
    data = find(inputs.data, reader_for(inputs.model))
    situation = Situation(
        model=models.find(inputs.model),
        gpu=here.gpu if here else gpus.find(_of_size(inputs.device)),
        num_gpus=inputs.num_gpus,
        free_bytes=max(_GRAIN, here.free_bytes // _GRAIN * _GRAIN) if here else None,
        goal=inputs.goal,
        pins={**method, **{name: _pinned(name, value) for name, value in inputs.pins.items()}},
        **{**facts(data.report), **({"task": inputs.task} if inputs.task else {})},
    )
    return Request(
        situation=situation,
        rules=inputs.rules,
        data=data,
        device=here.torch_name if here else None,
        price_per_hour=inputs.price_per_hour,
    )


def recommendation(asked: Request) -> Recommendation:
    """Return the recommendation for a request; recent answers are cached."""
    return _advised(asked.rules, _Key(asked.situation))


@dataclass(frozen=True, slots=True)
class _Key:
    """A situation as a cache key: its pins are a mapping, which cannot be hashed."""

    situation: Situation

    def __hash__(self) -> int:
        """Leave the pins out; equality still compares them."""
        situation = self.situation
        return hash((situation.model, situation.gpu, situation.available_bytes, situation.task, situation.goal))


@functools.lru_cache(maxsize=256)
def _advised(rules: str, key: _Key) -> Recommendation:
    return advise(key.situation, rules=rules, price=_price_for(key.situation))


def _price_for(situation: Situation) -> Callable[[FinetunePlan], MemoryEstimate]:
    """Return what prices plans on the free memory of a situation's device."""
    gpu = dataclasses.replace(situation.gpu, usable_bytes=situation.available_bytes)
    return lambda plan: prices.priced(situation.model, plan, gpu)


@dataclass(frozen=True, slots=True)
class Override:
    """One setting that the user fixed, compared with the plan without it."""

    advice: Advice
    accepted: bool
    """Whether the evidence finds the value acceptable."""
    cost_bytes: int
    """How much more memory is used than without it; negative if less."""


def overrides(asked: Request, result: Recommendation) -> list[Override]:
    """Return what each fixed setting costs, and whether the evidence agrees with it."""
    used, found = asked.price(result.plan).used_bytes, []
    for advice in result.advice:
        if advice.field not in asked.situation.pins:
            continue
        rest = {name: value for name, value in asked.situation.pins.items() if name != advice.field}
        free = dataclasses.replace(asked, situation=dataclasses.replace(asked.situation, pins=rest))
        wished = recommendation(free)
        freed = next((entry for entry in wished.advice if entry.field == advice.field), None)
        accepted = freed is None or freed.accepts(advice.value)
        found.append(Override(advice, accepted, used - asked.price(wished.plan).used_bytes))
    return found


def devices_needed(situation: Situation, method: str) -> int | None:
    """Return how many of the devices a method's smallest plan needs; None if no number is enough.

    FSDP shards the plan across two or more devices.
    """
    return _devices_needed(_Key(dataclasses.replace(situation, num_gpus=1)), method)


@functools.lru_cache(maxsize=1024)
def _devices_needed(key: _Key, method: str) -> int | None:
    situation = key.situation
    gpu = dataclasses.replace(situation.gpu, usable_bytes=situation.available_bytes)
    search = Search(situation, RULE_SETS["evidence"], _price_for(situation))
    smallest = search.smallest_of(method)
    if smallest.fits:
        return 1
    divided = situation.as_priced(search.sharded_over(smallest.plan, 2))
    return pricing.gpus_needed(situation.model, divided, gpu, progress=notices.tell)


@functools.lru_cache(maxsize=64)
def alive(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec) -> tuple[Tensors, ...]:
    """Return the tensors that are alive at the peak of a step on one device."""
    return alive_at_peak(Replay(library.tape_for(model, plan, gpu=gpu, progress=notices.tell), plan, gpu))


def is_traced(situation: Situation) -> bool:
    """Return whether the usual methods can be estimated without tracing the model first."""
    plain = dataclasses.replace(situation, pins={})
    plans = [drafted(plain, name, RULE_SETS["evidence"]) for name in SIDE_BY_SIDE]
    return all(library.is_warm(situation.model, plan, gpu=situation.gpu) for plan in plans)


def task_note(asked: Request) -> str:
    """Return in a sentence what the data decides about the task, or that the user decided otherwise; mostly empty."""
    task = asked.data.report.task
    decided, holds = TASKS_OF_DATA[task]
    if asked.situation.task == decided:
        return "" if task == "answers" else f"The data holds {holds}, so the advice is for {TASKS[decided]}."
    if task in {"answers", "text"} and asked.situation.task != "preference":
        return ""
    return f"The data holds {holds}, but the task you chose is {TASKS[asked.situation.task]}."


def obstacle(asked: Request, plan: FinetunePlan, estimate: MemoryEstimate) -> str | None:
    """Return why a run of a plan cannot start from this page, or None if it can."""
    try:
        require_trained(asked.data.report.task, asked.data.label)
        if asked.device is not None and asked.situation.num_gpus == 1:
            require_feasible(plan, asked.ground)
    except LorafitError as error:
        return str(error)
    if asked.device is None:
        return f"No {card(asked.situation.gpu)} in this machine. Export the plan and run it where there is one."
    if asked.situation.num_gpus > 1:
        return "Runs on several devices start from the command line only. Export the plan."
    if estimate.verdict == "does not fit":
        return "The plan does not fit. See Trade-offs for changes that free memory."
    return None


def card(gpu: GpuSpec) -> str:
    """Return a device's name as sentences use it, such as ``Tesla T4`` or ``48 GB card``."""
    memory = gpu.name.removeprefix(_ANY_CARD)
    return gpu.name if memory == gpu.name else f"{memory.replace('GiB', 'GB')} card"


def _here() -> dict[str, machine.Device]:
    return {f"{HERE}{device.gpu.name}": device for device in machine.devices()}


def _of_size(choice: str) -> str:
    """Return a choice in the catalog's words: a bare number means GiB."""
    return f"{choice} GiB" if choice.strip().replace(".", "", 1).isdigit() else choice


def _pinned(name: str, value: Any) -> Any:
    """Return a pinned value; numbers such as 2e-4 arrive as text."""
    if not isinstance(value, str) or fields.choices(name) or name == "target_modules":
        return value
    if name in PATTERNS:
        return _pattern(name, value)
    try:
        return float(value)
    except ValueError as error:
        raise PlanError(name, "must be a number", value, "Write it like 0.0002 or 2e-4") from error


def _pattern(name: str, typed: str) -> tuple[tuple[str, int], ...]:
    """Return modules with their numbers from text such as ``q_proj: 8, down_proj: 32``."""
    pairs = [entry.rpartition(":") for entry in typed.split(",")]
    try:
        return tuple((module.strip(), int(number)) for module, _, number in pairs)
    except ValueError as error:
        raise PlanError(
            name, "must name modules with numbers", typed, "Write it like q_proj: 8, down_proj: 32"
        ) from error
