"""From the inputs to a recommendation: joins catalog, advisor and estimator. Draws nothing."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from advisor import ByRule, Recommendation, Situation, advise, by_rule
from advisor.rules import RULE_SETS
from advisor.search import Search, drafted
from advisor.situation import TASKS, TASKS_OF_DATA, suits
from catalog import gpus, here, machine, models
from estimator import pricing
from estimator.duration import machine as own_speed
from estimator.estimate import MemoryEstimate
from estimator.replay.live_tensors import Tensors, alive_at_peak
from estimator.replay.replay import Replay
from estimator.tape import library
from estimator.tape.layers import with_layers
from lorafit import own_runs
from lorafit.asked import facts
from specs import MIB, TASK_TYPES, FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError, TraceError
from specs.errors import clipped
from specs.fields import NAMES, NUMBERS, PATTERNS
from specs.tasks import kind_for
from trainer.data.examples import require_trained
from trainer.runs.contract import Place, cards, joined
from trainer.runs.feasibility import Ground, require_feasible
from ui.parts import notices, prices
from ui.parts.examining import reader_for
from ui.plan import fields
from ui.plan.data.datasets import DEMOS, Data, find
from ui.plan.forms import Inputs
from ui.runs.facts import run_data

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
    alike: tuple[str, ...] = ()
    """Torch's names of all devices of this machine that are called the same, the chosen one first."""
    price_per_hour: float | None = None

    @property
    def gpu(self) -> GpuSpec:
        """The device, limited to its free memory."""
        return self.situation.device

    @property
    def ground(self) -> Ground:
        """What a run from this page is held against."""
        return Ground(
            device=self.place("").device,
            compute_capabilities=machine.compute_capabilities(),
            linear_modules=self.situation.model.linear_modules,
            task_types=self.situation.model.task_types,
            has_pairs=self.data.report.task == "preference",
            kinds=self.data.report.kinds,
        )

    def price(self, plan: FinetunePlan) -> MemoryEstimate:
        """Return what a plan needs on the device."""
        return prices.priced(self.situation.model, self.situation.as_priced(plan), self.gpu)

    def is_warm(self, plan: FinetunePlan) -> bool:
        """Return whether a plan is priced without tracing a step first."""
        return library.is_warm(self.situation.model, self.situation.as_priced(plan), gpu=self.gpu)

    def place(self, token: str) -> Place:
        """Return where to execute a run of this request; the token makes a double click start one run only."""
        folder = here.model_folder(self.situation.model.name)
        return Place(device=joined(self.alike[: self.situation.num_gpus]), model_path=folder, token=token)


def model_names() -> list[str]:
    """Return the models to choose from, the one that is ready to train first."""
    return [DEMO_MODEL, *(name for name in models.names() if name != DEMO_MODEL)]


def device_names() -> list[str]:
    """Return the devices to choose from, this machine's own first."""
    return [*_here(), *gpus.names()]


def devices_meant(device: str) -> tuple[str, ...]:
    """Return the cards between which a name does not decide, such as those called 3060; none if it names one."""
    meant = () if device in _here() else gpus.matching(device)
    try:
        gpus.find(device)
    except LorafitError:
        return meant
    return ()


def linear_modules(model: str) -> tuple[str, ...]:
    """Return the modules that an adapter may target; empty for a model that cannot be found."""
    try:
        return with_layers(models.find(model), notices.tell).linear_modules
    except LorafitError:
        return ()


def request(inputs: Inputs) -> Request:
    """Look up what was chosen.

    Raises:
        LorafitError: If a model, device, file or setting cannot be used; the message names it.
    """
    device = _here().get(inputs.device)
    data = find(inputs.data, reader_for(inputs.model))
    model = with_layers(models.find(inputs.model), notices.tell)
    situation = Situation(
        model=model,
        gpu=_measured(device) if device else gpus.find(inputs.device),
        num_gpus=inputs.num_gpus,
        free_bytes=max(_GRAIN, device.free_bytes // _GRAIN * _GRAIN) if device else None,
        goal=inputs.goal,
        questions=len(data.source.prompts),
        is_trial=data.label in DEMOS,
        asks_data=not data.source.prompts and not data.source.evaluation_split and data.report.task != "text",
        pins={name: pinned(name, value) for name, value in inputs.pins.items()},
        **{**facts(data.report, model.task_types), **({"task": inputs.task} if inputs.task else {})},
    )
    return Request(
        situation=situation,
        rules=inputs.rules,
        data=data,
        device=device.torch_name if device else None,
        alike=tuple(one.torch_name for one in machine.devices() if device and one.gpu.name == device.gpu.name),
        price_per_hour=inputs.price_per_hour,
    )


def proposal(asked: Request) -> Recommendation | ByRule:
    """Return the recommendation for a request, by rule alone if its memory is unknown; recent answers are cached."""
    return _advised(asked.rules, _Key(asked.situation))


def recommendation(asked: Request) -> Recommendation:
    """Return the recommendation for a request.

    Raises:
        TraceError: If the memory of the model is unknown.
    """
    found = proposal(asked)
    if isinstance(found, ByRule):
        raise TraceError("memory", f"is unknown: {clipped(found.why, 180)}", None, "The Plan page advises by rule")
    return found


@dataclass(frozen=True, slots=True)
class _Key:
    """A situation as a cache key: its pins are a mapping, which cannot be hashed."""

    situation: Situation

    def __hash__(self) -> int:
        """Leave the pins out; equality still compares them."""
        situation = self.situation
        return hash((situation.model, situation.gpu, situation.available_bytes, situation.task, situation.goal))


@functools.lru_cache(maxsize=256)
def _advised(rules: str, key: _Key) -> Recommendation | ByRule:
    try:
        price, at_least = _price_for(key.situation), _at_least_for(key.situation)
        return advise(key.situation, rules=rules, price=price, at_least=at_least)
    except TraceError as error:
        return by_rule(key.situation, str(error), rules=rules)


def _price_for(situation: Situation) -> Callable[[FinetunePlan], MemoryEstimate]:
    """Return what prices plans on the free memory of a situation's device."""
    gpu = situation.device
    return lambda plan: prices.priced(situation.model, plan, gpu)


def _at_least_for(situation: Situation) -> Callable[[FinetunePlan], int]:
    """Return what gives the lower bound of plans on the free memory of a situation's device."""
    gpu = situation.device
    return lambda plan: prices.at_least(situation.model, plan, gpu)


def devices_needed(situation: Situation, method: str) -> int | None:
    """Return how many of the devices a method needs; None if no number is enough.

    One is enough if the plan that is advised under the method fits there. On two or more, FSDP shards its smallest one.
    """
    return _devices_needed(_Key(dataclasses.replace(situation, num_gpus=1)), method)


@functools.lru_cache(maxsize=1024)
def _devices_needed(key: _Key, method: str) -> int | None:
    situation = key.situation
    search = Search(situation, RULE_SETS["evidence"], _price_for(situation), _at_least_for(situation))
    best = search.best_of(method)
    if best.fits:
        return 1

    def spread(plan: FinetunePlan, number: int) -> FinetunePlan:
        return situation.as_priced(search.sharded_over(plan, number))

    return pricing.gpus_needed(situation.model, best.plan, situation.device, spread=spread, progress=notices.tell)


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
    task = kind_for(asked.data.report.kinds, asked.situation.task_type)
    decided, holds = TASKS_OF_DATA[task]
    if TASK_TYPES[asked.situation.task_type].has_head:
        return f"The data holds {holds}: {_head(asked.situation)} It writes no text."
    if not TASK_TYPES[asked.situation.task_type].writes:
        return f"The data holds {holds}: the model learns vectors by which texts are found. It writes no text."
    if asked.situation.task == decided:
        return "" if task == "answers" else f"The data holds {holds}, so the advice is for {TASKS[decided]}."
    if suits(asked.situation.task, task):
        return ""
    return f"The data holds {holds}, but the task you chose is {TASKS[asked.situation.task]}."


def _head(situation: Situation) -> str:
    """Return in a sentence what the new head of a model does."""
    what = {"SEQ_CLS": "classes", "TOKEN_CLS": "tags"}.get(situation.task_type)
    if what is None:
        return "a new head on the model says where an answer begins and ends."
    return f"a new head on the model tells {situation.num_labels:,} {what} apart."


def obstacle(asked: Request, plan: FinetunePlan, estimate: MemoryEstimate | None) -> str | None:
    """Return why a run of a plan cannot start from this page, or None if it can; without an estimate it may not fit."""
    if asked.device is not None and (few := _too_few(asked)):
        return few
    try:
        require_trained(asked.data.report.task, asked.data.label)
        if asked.device is not None:
            require_feasible(plan, asked.ground)
            here.require_weights(asked.place("").model_path or plan.model_name_or_path)
    except LorafitError as error:
        return str(error)
    if asked.device is None:
        return f"No {card(asked.situation.gpu)} in this machine. Start the plan elsewhere, or export it."
    return _too_large(estimate)


def obstacle_anywhere(asked: Request, estimate: MemoryEstimate | None) -> str | None:
    """Return why a run of a plan cannot start on any machine that has the device, or None if it can."""
    try:
        require_trained(asked.data.report.task, asked.data.label)
    except LorafitError as error:
        return str(error)
    return _too_large(estimate)


def _too_large(estimate: MemoryEstimate | None) -> str | None:
    if estimate is not None and estimate.verdict == "does not fit":
        return "The plan does not fit. What would save memory stands under Plan."
    return None


def _too_few(asked: Request) -> str | None:
    """Return that this machine has not as many cards as a plan has, or None; a CPU is shared by its processes."""
    number, gpu = asked.situation.num_gpus, asked.situation.gpu
    if gpu.is_cpu or len(asked.alike) >= number:
        return None
    held = f"This machine has {len(asked.alike):,} {card(gpu)}, and the plan is for {number:,}"
    return f"{held}. Lower the count, or export the plan."


def card(gpu: GpuSpec) -> str:
    """Return a device's name as sentences use it, such as ``Tesla T4`` or ``48 GB card``."""
    memory = gpu.name.removeprefix(_ANY_CARD)
    return gpu.name if memory == gpu.name else f"{memory.replace('GiB', 'GB')} card"


def label_of(torch_name: str) -> str | None:
    """Return how the page calls a device of this machine, or the first of several; None if it is not here any more."""
    first = min(cards(torch_name), default="")
    names = (f"{HERE}{device.gpu.name}" for device in machine.devices() if device.torch_name == first)
    return next(names, None)


def _measured(device: machine.Device) -> GpuSpec:
    """Return a device of this machine with what runs on it taught, and its curves.

    Curves that are missing are measured while nothing trains.
    """
    own_speed.in_background(device.gpu, device.torch_name, is_busy=run_data.is_training)
    return own_runs.taught(device, run_data.known_here())


def _here() -> dict[str, machine.Device]:
    """Return this machine's devices by what the page calls them; of several cards of one kind the first."""
    found: dict[str, machine.Device] = {}
    for device in machine.devices():
        found.setdefault(f"{HERE}{device.gpu.name}", device)
    return found


def pinned(name: str, value: Any) -> Any:
    """Return a pinned value; numbers such as 2e-4 arrive as text."""
    if not isinstance(value, str) or fields.choices(name) or name in {"method", "target_modules"}:
        return value
    if name in NAMES:
        return tuple(value.replace(",", " ").split())
    if name in NUMBERS:
        return _numbers(name, value)
    if name in PATTERNS:
        return _pattern(name, value)
    try:
        number = float(value)
    except ValueError as error:
        raise PlanError(name, "must be a number", value, "Write it like 0.0002 or 2e-4") from error
    if not fields.is_whole(name):
        return number
    if not number.is_integer():
        raise PlanError(name, "must be a whole number", value)
    return int(number)


def _numbers(name: str, typed: str) -> tuple[int, ...]:
    """Return whole numbers from text such as ``0, 1, 2``."""
    try:
        return tuple(int(part) for part in typed.replace(",", " ").split())
    except ValueError as error:
        raise PlanError(name, "must be whole numbers", typed, "Write them like 0, 1, 2") from error


def _pattern(name: str, typed: str) -> tuple[tuple[str, int], ...]:
    """Return modules with their numbers from text such as ``q_proj: 8, down_proj: 32``."""
    pairs = [entry.rpartition(":") for entry in typed.split(",")]
    try:
        return tuple((module.strip(), int(number)) for module, _, number in pairs)
    except ValueError as error:
        raise PlanError(
            name, "must name modules with numbers", typed, "Write it like q_proj: 8, down_proj: 32"
        ) from error
