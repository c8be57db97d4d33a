"""What command lines, pages, store and workers agree on: states, transitions, phases, and the records of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs.places import AT, queues_itself
from trainer.runs.race import Race

HEARTBEAT_SECONDS = 2.0
"""How often a worker sends a heartbeat."""

LOST_SECONDS = 15.0
"""How long a worker may be silent before its run counts as lost. A worker that was only suspended resumes its run."""


RENEWAL_SECONDS = 600.0
"""How long a worker waits for a store that cannot be written, such as on a full disk, before it ends: long enough for a
person to free some space, and what it has learned since its last checkpoint exists in memory only."""

CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints within its own."""
RESULT = "adapter"
"""Folder of the result within the run's folder; holds the whole model after full fine-tuning."""


class State(StrEnum):
    """The state of a run."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"


class Phase(StrEnum):
    """What the worker of a run is doing."""

    WAITING = "waiting"
    LOADING = "loading"
    TOKENIZING = "tokenizing"
    RACING = "racing"
    TRAINING = "training"
    SAVING = "saving"
    EVALUATING = "evaluating"
    DONE = "done"

    @property
    def words(self) -> str:
        """What a person reads of it."""
        return "answering the questions" if self is Phase.EVALUATING else str(self)


LOST_CONNECTION = "connection_lost_at"
"""The key in ``Run.details`` of the time since when the place where a run trains cannot be reached."""

WITHOUT_SPACE = "place_is_full"
"""The key in ``Run.details`` of whether it cannot be reached as its disk is full."""

WISH, TAKEN = "wish", "taken_wish"
"""Keys of the number of the attempt in which a person wished that a run trains elsewhere: in its details here and in
its orders there, and in its details there once its keeper has taken it. A follower started again has no wish."""

UNKNOWN = "memory_unknown"
"""The key in ``Run.estimate`` of the sentence that says why there is no estimate."""

DROPPED = "race "
"""How the token of a run begins that another one dropped in its race."""

ACTIVE = frozenset({State.PREPARING, State.RUNNING, State.STOPPING})
"""States in which a worker is using the device."""

RESUMABLE = frozenset({State.STOPPED, State.FAILED, State.LOST})
"""States from which a run can continue with the same plan."""

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.PREPARING, State.STOPPED, State.FAILED}),
        State.PREPARING: frozenset({State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED, State.LOST}),
        State.RUNNING: frozenset({State.STOPPING, State.STOPPED, State.FINISHED, State.FAILED, State.LOST}),
        State.STOPPING: frozenset({State.STOPPED, State.FINISHED, State.FAILED, State.LOST}),
        State.STOPPED: frozenset({State.QUEUED}),
        State.FINISHED: frozenset({State.QUEUED}),
        State.FAILED: frozenset({State.QUEUED}),
        State.LOST: frozenset({State.QUEUED, State.PREPARING, State.RUNNING, State.STOPPING, State.STOPPED}),
    }
)
"""Every allowed change of state. A finished run is queued again when it is extended."""


def cards(device: str) -> frozenset[str]:
    """Return the individual devices of a place such as ``cuda:0,2``; none where others decide which run uses which."""
    if queues_itself(device):
        return frozenset()
    here, at, where = device.partition(AT)
    kind, _, numbers = here.partition(":")
    found = [f"{kind}:{number}" for number in numbers.split(",")] if numbers else [kind]
    return frozenset(f"{one}{at}{where}" for one in found)


def joined(devices: Sequence[str]) -> str:
    """Return a place such as ``cuda:0,2`` for individual devices; one without a number is a place for all processes."""
    kind, colon, _ = devices[0].partition(":") if devices else ("cpu", "", "")
    return f"{kind}{colon}{','.join(device.partition(':')[2] for device in devices)}" if colon else kind


def first_of(device: str) -> str:
    """Return the first of the devices of a place such as ``cuda:0,2``."""
    here, at, where = device.partition(AT)
    return f"{here.partition(',')[0]}{at}{where}"


def spread(device: str, num_gpus: int) -> str:
    """Return all devices of a run, given the first one or all: ``cuda:1`` for two devices is ``cuda:1,2``."""
    here, at, where = device.partition(AT)
    kind, _, number = here.partition(":")
    if num_gpus == 1 or not number.isdecimal():
        return device
    return f"{kind}:{','.join(str(int(number) + index) for index in range(num_gpus))}{at}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run executes and where it comes from."""

    device: str = "cpu"
    """A torch device such as ``cpu`` or ``cuda:0``, or several cards as ``cuda:0,1``; that of another place has its
    address behind it, as in ``cuda:0@ssh://host``. Runs on one device wait for each other."""
    model_path: str = ""
    """Folder or Hub id of the base model; empty means the plan's ``model_name_or_path``."""
    token: str | None = None
    """Identifies one click on a start button: the same token never creates a second run."""
    parent_id: str | None = None
    """The run that this one repeats, with the same settings or with others."""

    @property
    def away(self) -> str:
        """The address of the place where it trains; empty for this machine."""
        return self.device.partition(AT)[2]

    @property
    def card(self) -> str:
        """The torch device that it trains on, wherever that is."""
        return self.device.partition(AT)[0]

    @property
    def here(self) -> str:
        """The torch device of this machine that its model is run on afterwards, such as for a chat.

        For a run that trained elsewhere the processor, which every machine has.
        """
        return "cpu" if self.away else self.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a plan, as the store knows it."""

    id: str
    state: State
    phase: Phase
    plan: FinetunePlan
    data: DataSource
    place: Place
    estimate: Mapping[str, Any] | None
    """What was predicted when the run was created: ``MemoryEstimate.to_dict()``, or ``UNKNOWN`` and why."""
    measured: Mapping[str, Any]
    """What the worker measured, such as ``peak_used_bytes``."""
    details: Mapping[str, Any]
    """What the worker recorded: number of rows, library versions, fingerprint of the data, answers that it expects."""
    attempt: int
    """How many workers have been started for it."""
    step: int
    """Optimizer steps done."""
    total_steps: int | None
    stop_requested: bool
    error: str | None
    """The sentence that says why it failed."""
    error_kind: str | None
    """``out_of_memory``, ``not_finite``, ``disk_full``, ``data``, ``plan``, ``process_gone``, ``unexpected``, or for a
    worker that ended without a word ``lost``, ``killed`` or ``crashed``."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    heartbeat_at: float | None
    process: str | None = None
    """The process of its newest worker, as ``processes.identity`` names it."""
    oom_kills: int | None = None
    """What ``deaths.oom_kills`` counted when that worker was started."""
    name: str = ""
    """What its person calls it, in one line; empty if they did not say."""
    note: str = ""
    archived_at: float | None = None
    deleted_at: float | None = None
    """When it was put into the trash."""
    race: Race | None = None
    """The race that the run begins with; once it is decided, the run is its winner's."""

    @property
    def is_active(self) -> bool:
        """Whether a worker is using the device for it."""
        return self.state in ACTIVE

    @property
    def is_resumable(self) -> bool:
        """Whether it can continue from its last checkpoint with the same plan."""
        return self.state in RESUMABLE

    @property
    def is_over(self) -> bool:
        """Whether no worker is or will be busy with it unless somebody requests it."""
        return not self.is_active and self.state is not State.QUEUED

    @property
    def races(self) -> bool:
        """Whether it is still to be found out which plan it trains to the end."""
        return self.race is not None and self.race.winner is None

    @property
    def left_race(self) -> bool:
        """Whether it is a plan that another run dropped in its race."""
        return (self.place.token or "").startswith(DROPPED)

    @property
    def model(self) -> str:
        """Where the base model is loaded from."""
        return self.place.model_path or self.plan.model_name_or_path

    @property
    def connection_lost_at(self) -> float | None:
        """Since when the place where it trains cannot be reached, in seconds since 1970; None while it can."""
        since: float | None = self.details.get(LOST_CONNECTION)
        return since if self.is_active else None

    @property
    def parts(self) -> Sequence[Mapping[str, Any]]:
        """The runs whose adapters it combines, each with ``id``, ``name`` and ``weight``; none for one that trained."""
        found: Sequence[Mapping[str, Any]] = self.details.get("combined", {}).get("parts", ())
        return found

    @property
    def result_step(self) -> int:
        """The step whose weights are its result: the last, unless somebody kept an earlier checkpoint."""
        kept: int | None = self.details.get("result_step")
        return self.step if kept is None else kept

    @property
    def has_perplexity(self) -> bool:
        """Whether its loss is a mean over tokens: that of pairs of answers and of classes is none."""
        return bool(self.details.get("loss_of_tokens"))

    def expected(self, prompt: str) -> str:
        """Return the answer that the data has to a question; empty where the question is not from the data."""
        return str(self.details.get("expected", {}).get(prompt, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """The metrics of one optimizer step; None if not measured at this step."""

    step: int
    """From 1."""
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    """Tokens trained on, without padding."""
    memory_bytes: int | None = None
    """Resident memory of the worker on a CPU, reserved memory on a GPU."""
    eta_seconds: float | None = None
    temperature_celsius: float | None = None
    """Of the card, where its driver tells."""
    power_watts: float | None = None
    """What the whole card draws, where its driver tells."""
    at: float | None = None
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """The training loss of a run in a few points, for a small chart."""

    losses: tuple[float, ...]
    """Means over successive groups of steps."""
    last: float
    """The loss of the last step that has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a run, in one sentence."""

    id: int
    at: float
    kind: str
    """state, phase, checkpoint, warning or error."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The same prompt answered by the base model and by the tuned one."""

    prompt: str
    base: str
    tuned: str
