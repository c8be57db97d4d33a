"""What a run measured over its steps, as curves and small charts. Draws nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from specs import GIB, gib
from trainer.runs.contract import Metric, Run
from trainer.runs.diagnosis import perplexity
from ui.drawing.curves import Curve
from ui.drawing.small_chart import Small, short
from ui.parts import text
from ui.runs.facts import memory, run_data

SERIES: Mapping[str, str] = {
    "loss": "loss",
    "eval_loss": "eval loss",
    "perplexity": "perplexity",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens/s",
    "memory_bytes": "memory (GiB)",
    "temperature_celsius": "card temperature (°C)",
    "power_watts": "card power (W)",
}
"""The quantities that can be drawn over steps, with their axis titles."""

_DERIVED: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "perplexity": ("eval_loss", perplexity),
    "memory_bytes": ("memory_bytes", lambda num_bytes: num_bytes / GIB),
}
"""The metric that a quantity is derived from, and how."""


_AS_MEASURED = frozenset({"eval_loss", "learning_rate", "memory_bytes"})
"""Metrics without noise, or with few points: their average would only lag behind them."""


def curve(points: Iterable[Metric], quantity: str, name: str) -> Curve:
    """Return one quantity over steps, without the steps at which it was not measured."""
    column, shown = _DERIVED.get(quantity, (quantity, float))
    found = [(point.step, shown(value)) for point in points if (value := getattr(point, column)) is not None]
    return Curve(
        name=name,
        steps=[step for step, _ in found],
        values=[value for _, value in found],
        is_smoothed=column not in _AS_MEASURED,
    )


def curves(points: Sequence[Metric], quantity: str) -> list[Curve]:
    """Return the curves of one run: the quantity, and next to the loss that of held-out rows."""
    names = (quantity, "eval_loss") if quantity == "loss" else (quantity,)
    return [found for name in names if (found := curve(points, name, SERIES[name])).steps]


_ALWAYS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
"""Quantities that every run measures."""


def drawable(run: Run, points: Sequence[Metric]) -> list[str]:
    """Return the quantities that a run has or will have; its held-out loss is drawn beside the loss."""
    measured = {name for name in SERIES if newest(points, _DERIVED.get(name, (name, None))[0]) is not None}
    if not run.has_perplexity:
        measured.discard("perplexity")
    return [name for name in SERIES if name in measured or name in _ALWAYS]


def drawable_of_all(runs: Sequence[Run]) -> list[str]:
    """Return the quantities that at least one of several runs has."""
    known = {name for run in runs for name in drawable(run, run_data.metrics(run))}
    return [name for name in SERIES if name in known]


def _rate(value: float) -> str:
    return text.value(float(f"{value:.3g}"))


_SMALL: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("Loss", "{:.3f}".format),
    "learning_rate": ("Learning rate", _rate),
    "grad_norm": ("Gradient norm", "{:.3g}".format),
    "tokens_per_second": ("Tokens/s", "{:,.0f}".format),
    "memory_bytes": ("Memory in use", lambda value: gib(round(value * GIB))),
    "temperature_celsius": ("Card, °C", "{:.0f}".format),
    "power_watts": ("Card, W", "{:.0f}".format),
}
"""What is drawn small: title, and how its values are written."""


def small(run: Run, points: Sequence[Metric]) -> list[Small]:
    """Return the small charts of a run: every quantity that was measured, the memory against what was predicted."""
    predicted = memory.predicted_peak(run)
    return [
        Small(
            title=title,
            curves=found,
            last=_memory_in_words(run, points) if name == "memory_bytes" else form(found[0].values[-1]),
            form=form if name in {"learning_rate", "memory_bytes"} else short,
            line=(predicted / GIB, f"predicted peak {gib(predicted)}")
            if name == "memory_bytes" and predicted
            else None,
        )
        for name, (title, form) in _SMALL.items()
        if (found := curves(points, name))
    ]


def _memory_in_words(run: Run, points: Sequence[Metric]) -> str:
    """Return the peak of a run's memory as every page says it; before there is one, what the last step used."""
    peak = memory.measured_peak(run)
    return f"peak {gib(peak)}" if peak else gib(int(newest(points, "memory_bytes") or 0))


def newest(points: Sequence[Metric], quantity: str) -> float | None:
    """Return the last measured value of a quantity."""
    return next((value for point in reversed(points) if (value := getattr(point, quantity)) is not None), None)


def nothing_drawn(run: Run, points: Sequence[Metric], quantity: str) -> str:
    """Return what to say when there is nothing to draw."""
    if points:
        return f"No {SERIES[quantity]} was measured." if run.is_over else f"No {SERIES[quantity]} measured yet."
    if run.is_over:
        return "The run ended before its first step."
    if run.race is not None and run.races:
        if run.race.repeats:
            return "The curve of the best plan appears here once all are trained."
        return "The curve of the plan that wins appears here once the race is decided; those of all plans stand above."
    return "The first point appears after the first step, usually within half a minute of the start."
