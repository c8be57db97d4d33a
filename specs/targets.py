"""What an adapter trains: the layers of a model by name and size, and the one place that resolves a plan's targets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from specs.errors import PlanError, nearest
from specs.fields import PlanFields
from specs.methods import METHODS

LEFT_OUT: Mapping[str, str] = {
    "head": "is the output head",
    "task": "is the new head of the task, which is trained whole",
    "pooler": "is not read by embeddings, which pool the vectors of all tokens themselves",
    "router": "chooses the experts, and an adapter there changes which are chosen",
    "chooser": "chooses the experts, and returns several tensors, which no adapter can",
    "expert": "is one expert's own layer, of which there are hundreds",
    "indexer": "only chooses what attention looks at, so no gradient reaches it",
    "bypassed": "is read past its adapter by a fused kernel, as in Mamba layers",
    "grouped": "multiplies each group of heads by weights of its own, which no adapter does",
    "tower": "belongs to a part of the model that text does not reach",
    "unnamed": "has only a number for a name",
}
"""Why a linear layer gets no adapter unless a person asks for it, as the end of a sentence."""

_LAYERS = "layers_to_transform"
_MOVED = "is moved by PEFT to the router and to all experts"
_ASKED_FOR = frozenset({"", "router"})
"""Reasons in spite of which a layer gets an adapter if a person names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The linear layers of one name and size."""

    path: str
    """Path in the model, with ``#`` for the number of the decoder layer."""
    numbers: str = ""
    """The numbers that ``#`` stands for, such as ``0-2,5``; empty for a layer that occurs once."""
    in_features: int
    out_features: int
    has_bias: bool = False
    left_out: str = ""
    """A key of ``LEFT_OUT``, or empty."""

    @property
    def name(self) -> str:
        """The last part of the path, by which PEFT knows the layers."""
        return self.path.rpartition(".")[2]

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every layer."""
        return _numbered(self.path, self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked:
    """The parameters of one name that each hold all experts of a layer, as transformers 5 keeps them."""

    path: str
    numbers: str = ""
    num_experts: int
    in_features: int
    out_features: int

    @property
    def name(self) -> str:
        """The last parts of the path, from the module of the experts on, such as ``experts.down_proj``."""
        *parents, owner, last = self.path.split(".")
        return f"{owner}.{last}" if "expert" in owner else ".".join((*parents[-1:], owner, last))

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every parameter."""
        return _numbered(self.path, self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """A plan's targets, resolved: what PEFT is given."""

    modules: tuple[str, ...]
    """PEFT's ``target_modules``."""
    excluded: str
    """PEFT's ``exclude_modules``, an expression; empty where no other layer has a name of ``modules``."""
    parameters: tuple[str, ...]
    """PEFT's ``target_parameters``."""

    @property
    def expression(self) -> str:
        """The modules without the excluded ones as one expression, for adapters that cannot exclude any."""
        names = "|".join(map(re.escape, self.modules))
        without = f"(?!(?:{self.excluded})$)" if self.excluded else ""
        return rf"{without}(?:.*\.)?(?:{names})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Every linear layer and every stack of experts of one model, as a build of its configuration has them."""

    linear: tuple[Linear, ...] = ()
    stacked: tuple[Stacked, ...] = ()
    namesakes: tuple[tuple[str, str], ...] = ()
    """Paths and numbers of other modules that share their name with a linear layer."""
    moved: tuple[str, ...] = ()
    """Names that PEFT's LoRA moves to router and experts for this kind of model."""
    num_biases: int = 0
    """Weights that are biases."""
    num_params: int = 0
    """All weights of the model, tied ones counted once."""

    @property
    def names(self) -> tuple[str, ...]:
        """What ``all-linear`` means for LoRA: every linear layer of the blocks but routers and experts."""
        return self.by_default("LORA")

    @property
    def nameable(self) -> tuple[str, ...]:
        """The names that a person may choose from: ``names``, and plain routers."""
        found = (layer.name for layer in self.linear if layer.left_out in _ASKED_FOR)
        return tuple(name for name in dict.fromkeys(found) if name not in self.moved)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The stacks of experts by name, for ``target_parameters``."""
        return tuple(dict.fromkeys(stack.name for stack in self.stacked))

    @property
    def num_experts(self) -> int:
        """Experts of a layer; 0 for a dense model."""
        single = len({layer.path for layer in self.linear if layer.left_out == "expert"})
        return max((stack.num_experts for stack in self.stacked), default=1 if single else 0)

    def by_default(self, peft_type: str | None) -> tuple[str, ...]:
        """Return the names that ``all-linear`` stands for: only LoRA's are moved."""
        moved = self.moved if peft_type == "LORA" else ()
        found = (layer.name for layer in self.linear if not layer.left_out)
        return tuple(name for name in dict.fromkeys(found) if name not in moved)

    def resolved(self, plan: PlanFields) -> Targets:
        """Return a plan's targets in this model.

        Raises:
            PlanError: If the model lacks a module or a parameter that the plan names, or no adapter can be put there.
        """
        kind = METHODS[plan.method].peft_type
        names = self.by_default(kind) if isinstance(plan.target_modules, str) else plan.target_modules
        for name in names:
            self._require(name, kind)
        self._require_layers(plan)
        for name in plan.target_parameters:
            if name not in self.parameters:
                raise PlanError("target_parameters", *self._no_parameter(name))
        return Targets(modules=tuple(names), excluded=self._excluded(names), parameters=plan.target_parameters)

    def as_peft_takes_it(self, plan: PlanFields) -> tuple[str | tuple[str, ...], str]:
        """Return ``target_modules`` and ``exclude_modules`` with which PEFT trains what ``resolved`` says.

        PEFT's own ``all-linear`` will do for a model of which it leaves out only the head.
        """
        if isinstance(plan.target_modules, str) and not self.moved and self._leaves_out_the_head_alone():
            return plan.target_modules, ""
        targets = self.resolved(plan)
        return targets.modules, targets.excluded

    def _leaves_out_the_head_alone(self) -> bool:
        return all(layer.left_out in {"", "head"} for layer in self.linear)

    def adapted(self, plan: PlanFields) -> Iterator[tuple[str, Linear | Stacked]]:
        """Yield the path of everything that a plan adapts, with its kind."""
        targets = self.resolved(plan)
        excluded = re.compile(targets.excluded)
        chosen = frozenset(map(str, plan.layers_to_transform)) if METHODS[plan.method].uses(_LAYERS) else None
        for layer in self.linear:
            if layer.name in targets.modules:
                found = (path for path in layer.paths if not excluded.fullmatch(path))
                yield from ((path, layer) for path in found if not chosen or _number(path) in chosen)
        for stack in self.stacked:
            if stack.name in targets.parameters:
                yield from ((path, stack) for path in stack.paths)

    def adapter_params(self, plan: PlanFields) -> int | None:
        """Return how many weights a plan's adapter trains; None where the linear layers do not tell.

        Those of LoRA are its matrices, DoRA's magnitudes and biases; a stack of experts gets matrices for every expert.
        """
        adapter = METHODS[plan.method].adapter
        if adapter is None or adapter.weights is None or plan.modules_to_save or plan.trainable_token_indices:
            return None
        if METHODS[plan.method].peft_type == "LORA":
            found = (rank_of(path, plan) * _width(kind) + _beside(kind, plan) for path, kind in self.adapted(plan))
        else:
            found = (adapter.weights(kind.in_features, kind.out_features, plan) for _, kind in self.adapted(plan))
        biases = METHODS[plan.method].uses("bias") and plan.bias == "all"
        return sum(found) + (self.num_biases if biases else 0)

    def lora_params(self, plan: PlanFields) -> int:
        """Return how many weights a plan's LoRA trains."""
        return self.adapter_params(plan) or 0

    def to_dict(self) -> dict[str, Any]:
        """Return the layers as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the layers back."""
        return cls(
            linear=tuple(Linear(**entry) for entry in values["linear"]),
            stacked=tuple(Stacked(**entry) for entry in values["stacked"]),
            namesakes=tuple((path, numbers) for path, numbers in values["namesakes"]),
            moved=tuple(values["moved"]),
            num_biases=values["num_biases"],
            num_params=values["num_params"],
        )

    def _require(self, name: str, peft_type: str | None) -> None:
        """Refuse a name that the model lacks, or whose layers cannot get an adapter."""
        if peft_type == "LORA" and name in self.moved:
            way_out = "Leave it out; experts are named in target_parameters"
            raise PlanError("target_modules", f"must leave out what {_MOVED}", name, way_out)
        reasons = {layer.left_out for layer in self.linear if layer.name == name}
        if not reasons:
            rule = "must name linear modules of the model"
            raise PlanError("target_modules", rule, name, nearest(name, self.nameable))
        if not reasons & _ASKED_FOR:
            reason = LEFT_OUT[min(reasons)]
            raise PlanError("target_modules", f"must leave out what {reason}", name, nearest(name, self.nameable))

    @property
    def layer_lists(self) -> tuple[str, ...]:
        """What the lists of layers are called, such as ``layers``: PEFT's ``layers_pattern``."""
        found = (layer.path.partition(".#")[0].rpartition(".")[2] for layer in self.linear if layer.numbers)
        return tuple(dict.fromkeys(found))

    def _require_layers(self, plan: PlanFields) -> None:
        """Refuse numbers of layers that the model has not."""
        if not plan.layers_to_transform or not METHODS[plan.method].uses(_LAYERS):
            return
        numbers = {int(_number(path)) for layer in self.linear if layer.numbers for path in layer.paths}
        strange = sorted({*plan.layers_to_transform} - numbers)
        if strange:
            rule = f"must be numbers of the model's layers, from 0 to {max(numbers, default=0)}"
            raise PlanError(_LAYERS, rule, strange[0], "Leave it out")

    def _no_parameter(self, name: str) -> tuple[str, str, str]:
        if not self.parameters:
            return "must be empty for a model without stacked experts", name, "Leave it empty"
        return "must name stacked experts of the model", name, nearest(name, self.parameters)

    def _excluded(self, names: Sequence[str]) -> str:
        """Return an expression for what shares a name with a target but is none; empty if nothing does."""
        layers = [layer for layer in self.linear if layer.name in names]
        adapted = {layer.path for layer in layers if layer.left_out in _ASKED_FOR}
        found = [(layer.path, layer.numbers) for layer in layers if layer.left_out not in _ASKED_FOR]
        found += [place for place in self.namesakes if place[0].rpartition(".")[2] in names]
        return "|".join(dict.fromkeys(_expression(*place, exact=place[0] in adapted) for place in found))


def rank_of(path: str, plan: PlanFields) -> int:
    """Return the rank of one layer; the first matching pattern counts, as in PEFT's ``get_pattern_key``."""
    return next((rank for name, rank in plan.rank_pattern if re.match(rf"(.*\.)?({name})$", path)), plan.r)


def grouped(paths: Sequence[str]) -> tuple[str, str]:
    """Return paths that differ only in their first number as one, with the numbers as ranges."""
    parts = [_NUMBER.split(path, maxsplit=1) for path in paths]
    if len(parts[0]) == 1:
        return paths[0], ""
    return f"{parts[0][0]}.#{parts[0][2]}", ",".join(_ranges(sorted(int(part[1]) for part in parts)))


def template(path: str) -> str:
    """Return a path with ``#`` for its first number."""
    return _NUMBER.sub(".#", path, count=1)


_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    start = previous = numbers[0]
    for number in (*numbers[1:], None):
        if number != previous + 1:
            yield str(start) if start == previous else f"{start}-{previous}"
            start = number if number is not None else start
        previous = number if number is not None else previous


def _number(path: str) -> str:
    """Return the number of the layer that a path leads into; empty if none is numbered."""
    found = _NUMBER.search(path)
    return found[1] if found else ""


def _numbered(path: str, numbers: str) -> tuple[str, ...]:
    if not numbers:
        return (path,)
    bounds = [part.partition("-") for part in numbers.split(",")]
    found = (range(int(first), int(last or first) + 1) for first, _, last in bounds)
    return tuple(path.replace("#", str(number), 1) for span in found for number in span)


def _expression(path: str, numbers: str, *, exact: bool) -> str:
    """Return an expression for a path; unless it must be exact, any number will do."""
    chosen = "|".join(_numbered("#", numbers)) if exact and numbers else ""
    return re.escape(path).replace(re.escape("#"), f"(?:{chosen})" if chosen else r"\d+")


def _width(kind: Linear | Stacked) -> int:
    experts = kind.num_experts if isinstance(kind, Stacked) else 1
    return experts * (kind.in_features + kind.out_features)


def _beside(kind: Linear | Stacked, plan: PlanFields) -> int:
    """Return what a layer trains besides its two matrices."""
    if isinstance(kind, Stacked):
        return 0
    magnitudes = kind.out_features if plan.use_dora else 0
    return magnitudes + (kind.out_features if plan.bias == "lora_only" and kind.has_bias else 0)
