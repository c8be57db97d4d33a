"""The situation that advice is for: model, device, data, task, goal, and the fields that the person pinned."""

import bisect
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from specs import METHODS, TASK_TYPES, FinetunePlan, GpuSpec, ModelSpec, PlanError, SpecError, gib
from specs.fields import NAMES
from specs.stored import fixed_fields
from specs.tasks import require_trained_for

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "classification": "classification or extraction",
        "style": "style and tone",
        "instruction": "instructions and chat",
        "domain": "domain knowledge (continued pre-training)",
        "reasoning": "reasoning and mathematics",
        "code": "code",
        "preference": "preferences (DPO)",
        "similarity": "search and similarity (embeddings)",
    }
)
"""Every task by name, with the words used on screen."""

GOALS: Mapping[str, str] = MappingProxyType(
    {
        "quality": "best quality",
        "balanced": "balanced",
        "speed": "fastest training",
        "memory": "smallest memory",
    }
)
"""Every goal by name, with the words used on screen."""

TASKS_OF_DATA: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "answers": ("instruction", "answers to learn"),
        "text": ("domain", "plain text"),
        "preference": ("preference", "pairs of a better and a worse answer"),
        "unpaired": ("preference", "answers marked good or bad"),
        "classification": ("classification", "texts with a class"),
        "tags": ("classification", "words with tags"),
        "related": ("similarity", "texts that belong together"),
        "similarity": ("similarity", "pairs of texts with a score"),
        "extraction": ("classification", "answers that stand in a text"),
    }
)
"""What each kind of data (``trainer.data.source.TASKS``) is trained for, and what it holds in words."""


def suits(task: str, kind: str) -> bool:
    """Return whether data of a kind can serve a task: answers and texts serve every task but preferences."""
    return task == TASKS_OF_DATA[kind][0] or (kind in {"answers", "text"} and task != "preference")


SHORTEST_PRICED = 8
"""The shortest ``max_length`` that a plan may have."""

_PLAN_FIELDS = frozenset(entry.name for entry in dataclasses.fields(FinetunePlan))
_GIVEN_ELSEWHERE = frozenset({"model_name_or_path", "num_gpus"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything the advice depends on."""

    model: ModelSpec
    gpu: GpuSpec
    num_gpus: int = 1
    free_bytes: int | None = None
    """Free memory of each device; None means everything that the device can hand out."""
    dataset_rows: int | None = None
    dataset_tokens: tuple[int, int, int] | None = None
    """Tokens per row: median, 95th percentile, longest."""
    row_lengths: tuple[int, ...] = ()
    """Tokens of every row, or of a sample of them, sorted; empty where only ``dataset_tokens`` are known."""
    asks_data: bool = False
    """Whether questions of the data are asked before and after a run, for which a few rows are not learned."""
    questions: int = 0
    """Questions of the person that both models answer after a run."""
    is_trial: bool = False
    """Whether the data is a demo, of which a person wants to see soon how it goes."""
    task: str = "instruction"
    goal: str = "balanced"
    data_task_type: str = "CAUSAL_LM"
    """The task that the data is for, one of ``specs.TASK_TYPES``; ``pins`` may insist on another."""
    num_labels: int = 2
    """Classes in the data."""
    num_negatives: int = 0
    """Wrong texts that every row of the data has beside the right one."""
    has_scores: bool = False
    """Whether the data says by numbers how alike two texts are."""
    pins: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Plan fields that the person has set; the advice keeps them."""
    may_shorten: bool = False
    """Whether ``max_length`` may be below the data's lengths, to keep a method that trains better."""
    model_name_or_path: str = ""
    """The plan's ``model_name_or_path``; empty takes the name in the catalog."""

    def __post_init__(self) -> None:
        """Refuse a situation that no advice can be given for."""
        _check_choice("task", self.task, TASKS)
        _check_choice("goal", self.goal, GOALS)
        if not 1 <= self.num_gpus <= 100_000:
            raise PlanError("num_gpus", "must lie between 1 and 100,000", self.num_gpus)
        _check_data(self)
        _check_memory(self)
        _check_pins(self)
        _check_task_type(self)
        # Weights that are quantized already leave no choice.
        fixed = fixed_fields(self.model.config)
        object.__setattr__(self, "pins", MappingProxyType({**self.pins, **fixed}) if fixed else self.pins)

    @property
    def available_bytes(self) -> int:
        """Bytes of one device that the run may use; several processes on a CPU share its memory."""
        free = self.gpu.usable_bytes if self.free_bytes is None else min(self.free_bytes, self.gpu.usable_bytes)
        return free // self.num_gpus if self.gpu.is_cpu else free

    @property
    def device(self) -> GpuSpec:
        """The device, limited to the bytes that the run may use: what every plan of the situation is priced on."""
        return dataclasses.replace(self.gpu, usable_bytes=self.available_bytes)

    @property
    def task_type(self) -> str:
        """What the model learns to give out: what the person insists on, else what the data is for."""
        return str(self.pins.get("task_type", self.data_task_type))

    @property
    def num_params(self) -> int:
        """The model's parameters: the exact count if known, otherwise estimated from its shapes."""
        return self.model.num_params or shape_params(self.model)

    @property
    def modules(self) -> tuple[str, ...]:
        """The linear modules that an adapter may target: the model's, or those that the person named."""
        pinned = self.pins.get("target_modules")
        return self.model.linear_modules or (pinned if isinstance(pinned, tuple) else ())

    @property
    def train_tokens(self) -> int | None:
        """About how many tokens the data has: rows times the median length."""
        if self.dataset_rows is None or self.dataset_tokens is None:
            return None
        return self.dataset_rows * self.dataset_tokens[0]

    def lora_params(self, r: int) -> int:
        """Return how many weights LoRA of rank ``r`` trains on what is targeted by default or was pinned.

        For a model that nobody has built yet, this is about what a gated decoder of its shapes would have.
        """
        model = self.model
        if model.layers is not None:
            named = {name: self.pins[name] for name in NAMES if self.pins.get(name)}
            return model.layers.lora_params(FinetunePlan.for_method("lora", "counted", r=r, **named))
        q = model.num_attention_heads * model.head_dim
        kv = model.num_key_value_heads * model.head_dim
        attention = 2 * (model.hidden_size + q) + 2 * (model.hidden_size + kv)
        feed_forward = 0 if model.is_moe else 3 * (model.hidden_size + model.intermediate_size)
        return r * model.num_hidden_layers * (attention + feed_forward)

    def adapter_params(self, plan: FinetunePlan) -> int | None:
        """Return how many weights a plan's adapter trains; None where nobody has built the model, or no layer tells."""
        layers = self.model.layers
        if layers is None:
            return None
        if METHODS[plan.method].peft_type == "LORA":
            return self.lora_params(plan.r)
        return layers.adapter_params(plan)

    def as_priced(self, plan: FinetunePlan) -> FinetunePlan:
        """Return the plan whose supervised step on full sequences takes as much memory as this plan's step on the data.

        No sequence is longer than the longest row, unless rows are packed. DPO sends the chosen and the rejected answer
        through the model together; the reference pass runs afterwards without gradients and keeps nothing.
        docs/decisions/0304 has the comparison.
        """
        pairs = 2 if self.task == "preference" else 1
        batch = pairs * plan.per_device_train_batch_size
        length = self.priced_length(plan)
        if (batch, length) == (plan.per_device_train_batch_size, plan.max_length):
            return plan
        return dataclasses.replace(plan, per_device_train_batch_size=batch, max_length=length)

    def priced_length(self, plan: FinetunePlan) -> int:
        """Return the tokens of the longest sequence that a plan meets in the data."""
        if self.dataset_tokens is None or plan.packing:
            return plan.max_length
        return min(plan.max_length, max(self.dataset_tokens[2], SHORTEST_PRICED))

    def length_note(self, plan: FinetunePlan) -> str:
        """Return in one sentence that a plan is priced for less than its ``max_length``; empty where it is not."""
        length = self.priced_length(plan)
        if length >= plan.max_length:
            return ""
        return f"Priced for {length:,} tokens, the longest row, not for max_length {plan.max_length:,}."

    @property
    def cut(self) -> str:
        """What happens to rows that are too long, in words."""
        return "read in overlapping parts" if TASK_TYPES[self.task_type].reads_in_parts else "truncated"

    def truncated(self, max_length: int) -> str:
        """Return how many rows are longer than a length, as a phrase such as ``12 of 340 rows are truncated``."""
        done = self.cut
        if self.dataset_tokens is None:
            return f"longer rows are {done}"
        median, p95, longest = self.dataset_tokens
        if longest <= max_length:
            return f"no row is {done}"
        if self.row_lengths:
            return self._counted(max_length)
        if p95 <= max_length:
            return f"up to 5% of the rows are {done}"
        return f"5 to 50% of the rows are {done}" if median <= max_length else f"more than half of the rows are {done}"

    def _counted(self, max_length: int) -> str:
        counted = len(self.row_lengths)
        longer = counted - bisect.bisect_right(self.row_lengths, max_length)
        rows = self.dataset_rows or counted
        number = longer if rows <= counted else max(1, round(longer / counted * rows))
        verb = "is" if number == 1 else "are"
        if rows <= counted:
            return f"{number:,} of {counted:,} rows {verb} {self.cut}"
        return f"about {number:,} of {rows:,} rows {verb} {self.cut}"

    def phrase(self, name: str) -> str:
        """Return the words in which a reason names an input."""
        phrases = {
            "model": f"{self.model.name} ({billions(self.num_params)} parameters)",
            "size": f"{billions(self.num_params)} parameters",
            "model_type": self.model.model_type,
            "vocabulary": f"{self.model.vocab_size:,} words",
            "modules": ", ".join(self.modules),
            "gpu": self.gpu.name,
            "memory": gib(self.available_bytes),
            "rows": "an unknown number of rows" if self.dataset_rows is None else f"{self.dataset_rows:,} rows",
            "tokens": "rows of unknown length"
            if self.dataset_tokens is None
            else f"95% of rows within {self.dataset_tokens[1]:,} tokens",
            "task": TASKS[self.task],
            "goal": GOALS[self.goal],
            "num_gpus": "1 device" if self.num_gpus == 1 else f"{self.num_gpus:,} devices",
        }
        return phrases[name]


def billions(count: int) -> str:
    """Return a number of parameters in the usual form, such as ``8.0B`` or ``135M``."""
    if count >= 999_500_000:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M" if count >= 999_500 else f"{count / 1e3:.0f}K"


def shape_params(model: ModelSpec) -> int:
    """Return roughly how many parameters a gated decoder of these shapes has; norms and biases are left out."""
    q = model.num_attention_heads * model.head_dim
    kv = model.num_key_value_heads * model.head_dim
    attention = model.hidden_size * (2 * q + 2 * kv)
    if model.is_encoder_decoder:
        # A decoder layer attends twice, and both sides share the table of words.
        blocks = 3 * attention + 2 * 2 * model.hidden_size * model.intermediate_size
        return model.num_hidden_layers * blocks + model.vocab_size * model.hidden_size
    # BERT's feed-forward layer has no gate; ModernBERT's, called Wi, has.
    matrices = 3 if not model.is_encoder or {"gate_proj", "Wi"} & set(model.linear_modules) else 2
    feed_forward = matrices * model.hidden_size * model.intermediate_size * max(1, model.num_experts)
    tables = 1 if model.tie_word_embeddings or model.is_encoder else 2
    embeddings = model.vocab_size * model.hidden_size * tables
    return model.num_hidden_layers * (attention + feed_forward) + embeddings


def _check_choice(name: str, value: str, table: Mapping[str, str]) -> None:
    if value not in table:
        raise PlanError(name, f"must be one of {', '.join(table)}", value)


def _check_data(situation: Situation) -> None:
    rows, tokens = situation.dataset_rows, situation.dataset_tokens
    if rows is not None and rows < 1:
        raise PlanError("dataset_rows", "must be at least 1", rows, "Leave it out if you have no data yet")
    if tokens is not None and not (len(tokens) == 3 and 1 <= tokens[0] <= tokens[1] <= tokens[2]):
        raise PlanError("dataset_tokens", "must be three rising lengths: median, 95th percentile, longest", tokens)


def _check_memory(situation: Situation) -> None:
    if situation.free_bytes is not None and situation.free_bytes <= 0:
        raise PlanError("free_bytes", "must be more than 0", situation.free_bytes, "Close what else uses the device")


def _check_task_type(situation: Situation) -> None:
    """Refuse a task that transformers does not train this kind of model for."""
    _check_choice("task_type", situation.task_type, {name: entry.label for name, entry in TASK_TYPES.items()})
    require_trained_for(situation.model.name, situation.model.task_types, situation.task_type)


def _check_pins(situation: Situation) -> None:
    for name in situation.pins:
        if name in _GIVEN_ELSEWHERE:
            raise PlanError(f"pins: {name}", "cannot be pinned", None, "Give it as an argument of its own")
        if name not in _PLAN_FIELDS:
            raise PlanError(f"pins: {name}", "is not a field of a plan", None, "Remove it or correct its name")
    if not situation.modules:
        raise SpecError(
            f"{situation.model.name}: linear modules",
            f"are unknown for model_type {situation.model.model_type}, and an adapter needs their names",
            None,
            "Give target_modules, such as q_proj and v_proj, as the model names them",
        )
