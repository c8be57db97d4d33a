"""The plan: every choice of a run, checked when it is made, and its form in JSON."""

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from specs import checks, sharing
from specs.errors import PlanError
from specs.fields import LISTS, PATTERNS, PlanFields, Sharding
from specs.tasks import TASK_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan(PlanFields):
    """Every choice of one fine-tuning run. The advisor proposes it, the estimator prices it, the trainer runs it."""

    def __post_init__(self) -> None:
        """Refuse values out of range and choices that contradict each other."""
        for name in PATTERNS:
            value = getattr(self, name)
            if isinstance(value, Mapping):  # as it comes from JSON; pairs keep the plan hashable
                object.__setattr__(self, name, tuple(value.items()))
        checks.check(self, _TYPES_OF)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain JSON values."""
        values = dataclasses.asdict(self)
        lists = {name: list(values[name]) for name in LISTS if not isinstance(values[name], str)}
        return {**values, **lists, **{name: dict(getattr(self, name)) for name in PATTERNS}}

    def to_json(self) -> str:
        """Return the plan as indented JSON, which ``from_json`` reads back to an equal plan."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a plan from plain JSON values.

        Raises:
            PlanError: If a field is unknown, missing, of the wrong type, out of range, or contradicts another.
        """
        if not isinstance(values, Mapping):
            raise PlanError("plan", "must be a JSON object", type(values).__name__)
        known = {entry.name for entry in dataclasses.fields(cls)}
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise PlanError(f"plan: {unknown[0]}", "is not a field of a plan", None, "Remove it or correct its name")
        missing = [name for name in ("model_name_or_path", "method") if name not in values]
        if missing:
            raise PlanError(f"plan: {missing[0]}", "is missing", None, "Add it")
        kept = dict(values)
        kept |= {name: tuple(kept[name]) for name in LISTS if isinstance(kept.get(name), list)}
        return cls(**kept)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build a plan from the JSON text of a plan file.

        Raises:
            PlanError: If the text is not JSON or the plan is refused.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError("plan", "must be valid JSON", None, "Export it again") from error
        return cls.from_dict(values)

    @classmethod
    def for_method(cls, method: str, model_name_or_path: str, **values: Any) -> Self:
        """Return a plan for a method, with the fields that the method and the task fix filled in.

        Raises:
            PlanError: If the method is unknown or a value contradicts it.
        """
        entry, task = checks.known_method(method), TASK_TYPES.get(values.get("task_type", "CAUSAL_LM"))
        fixed = {**(task.preset if task else {}), **entry.preset}
        return cls(model_name_or_path=model_name_or_path, method=method, **{**fixed, **values})

    def with_method(self, method: str) -> Self:
        """Return this plan under another method: the old one's preset is undone, the new one's applied."""
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        fixed = {*checks.known_method(self.method).preset, "load_in_4bit", "load_in_8bit"}
        undone = {name: defaults[name] for name in fixed}
        return dataclasses.replace(self, method=method, **{**undone, **checks.known_method(method).preset})

    def with_sharding(self, sharding: Sharding, *, fixed: Collection[str] = (), **changes: Any) -> Self:
        """Return this plan whose devices share the work in another way, with what that way needs of other fields.

        Args:
            sharding: How they share it.
            fixed: Fields that somebody chose and that stay; the plan may then be refused where it is to run.
            changes: Fields that change at the same time, such as the number of devices.
        """
        moved = {name: value for name, value in sharing.needed(self, sharding).items() if name not in fixed}
        return dataclasses.replace(self, sharding=sharding, **{**moved, **changes})

    def over(self, num_gpus: int, sharding: Sharding | None = None) -> Self:
        """Return this plan on another number of devices; a step sees the same rows, by accumulation.

        Args:
            num_gpus: How many devices there are now.
            sharding: How they share the work; None keeps the plan's way, and takes copies (ddp) where it has none.

        Raises:
            PlanError: If the rows of a step cannot be divided by the number.
        """
        each, left = divmod(self.effective_batch_size, num_gpus) if num_gpus > 0 else (0, 1)
        if left or not each:
            rule = f"must divide the {self.effective_batch_size:,} rows of a step"
            raise PlanError("num_gpus", rule, num_gpus, "Choose another number")
        at_once = next(rows for rows in range(min(self.per_device_train_batch_size, each), 0, -1) if not each % rows)
        usual: Sharding = self.sharding if self.sharding != "none" else "ddp"
        way: Sharding = sharding or ("none" if num_gpus == 1 else usual)
        changes: dict[str, Any] = {
            "num_gpus": num_gpus,
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": each // at_once,
        }
        if way == "none":
            return dataclasses.replace(self, sharding=way, **changes)
        found = self.with_sharding(way, **changes)
        if found.optim != self.optim:  # its states are in the checkpoint
            rule = f"cannot be {way} in a run that has begun with {self.optim}, which updates no divided weights"
            raise PlanError("sharding", rule, None, "Choose ddp")
        return found


_TYPES_OF = checks.type_checks(typing.get_type_hints(FinetunePlan))
