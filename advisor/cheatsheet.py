"""The cheat sheet: the plan for a situation, its reasons, what it costs and what to do next, on one page."""

from collections.abc import Iterator

from advisor import sheet
from advisor.advice import spelled
from advisor.advise import Recommendation
from advisor.sheet import Section, Sheet
from advisor.situation import GOALS, Situation
from specs import METHODS, FinetunePlan, gib
from specs.units import with_digits

_MAIN_FIELDS = (
    "method",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "gradient_checkpointing",
    "optim",
    "dtype",
    "sharding",
)
"""The settings that people ask about; the rest stay in the plan file."""


def markdown(situation: Situation, recommendation: Recommendation, *, rules: str = "evidence") -> str:
    """Return the cheat sheet as Markdown."""
    return sheet.markdown(cheat_sheet(situation, recommendation, rules=rules))


def page(situation: Situation, recommendation: Recommendation, *, rules: str = "evidence") -> str:
    """Return the cheat sheet as an HTML page to print."""
    return sheet.page(cheat_sheet(situation, recommendation, rules=rules))


def cheat_sheet(situation: Situation, recommendation: Recommendation, *, rules: str = "evidence") -> Sheet:
    """Return what the cheat sheet says."""
    return Sheet(
        title=f"Fine-tuning {situation.model.name} on {situation.gpu.name}",
        about=_situation_line(situation, rules),
        verdict=verdict(situation, recommendation),
        remark=f"{situation.length_note(recommendation.plan)} {_time(recommendation)}".strip(),
        sections=(
            Section(
                heading="Settings",
                head=("Setting", "Value", "Also fine", "Why"),
                rows=[*_settings(recommendation)],
                names_first=True,
            ),
            Section(heading="Memory by part", head=("Part", "Bytes"), rows=[*_parts(recommendation)]),
            Section(heading="Warnings", rows=_warnings(recommendation)),
            Section(
                heading="To save memory", rows=[(f"{lever.text}; {lever.cost}",) for lever in recommendation.levers]
            ),
            Section(
                heading="Other methods",
                head=("Method", "Batch", "Memory", "Fits", "Time", "Quality"),
                rows=[*_alternatives(recommendation)],
            ),
            Section(heading="If it goes wrong", rows=[*_symptoms(recommendation.plan)]),
            Section(heading="Sources", rows=_sources(recommendation)),
        ),
    )


def _symptoms(plan: FinetunePlan) -> Iterator[tuple[str]]:
    """Yield the most common problems, with what to try of what the plan's method has."""
    size = METHODS[plan.method].size_field
    last, less = (f"; change {size} last", f"; a smaller {size} forgets less") if size else ("", "")
    overflow = "; with float16, watch for overflow" if plan.compute_dtype == "float16" else ""
    yield ("Out of memory: make the first change in the list above.",)
    yield (f"Loss jumps or is NaN: halve learning_rate{overflow}.",)
    yield (f"Loss does not fall: check that max_length does not truncate answers; then double learning_rate{last}.",)
    yield (f"Held-out loss rises while the loss falls: fewer epochs, then more data{less}.",)


def verdict(situation: Situation, recommendation: Recommendation) -> str:
    """Return in one sentence whether the plan fits."""
    used, label = gib(recommendation.estimate.used_bytes), METHODS[recommendation.plan.method].label
    memory = situation.phrase("memory")
    if not recommendation.fits:
        helps = next((lever for lever in recommendation.levers if lever.fits), None)
        way_out = f"{helps.text.partition(': ')[0]} would fit" if helps else "no smaller plan was found"
        return f"Does not fit: {label} needs {used}, with {memory} available; {way_out}."
    return f"{label} fits: {used} of {memory}, {recommendation.headroom:.0%} left free."


def _warnings(recommendation: Recommendation) -> list[tuple[str]]:
    """Return what to know before the start: of the plan, and of how the model is read and priced."""
    of_estimate = recommendation.estimate.to_dict().get("warnings", ())
    return [(str(caution),) for caution in (*recommendation.warnings, *of_estimate)]


def duration(seconds: float) -> str:
    """Return a time in the unit that people would use."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _situation_line(situation: Situation, rules: str) -> str:
    parts = [
        situation.phrase("size"),
        situation.phrase("num_gpus"),
        situation.phrase("task"),
        situation.phrase("rows"),
        GOALS[situation.goal],
        f"{rules} rules",
    ]
    return "; ".join(parts) + "."


_LARGE = 1.7
"""Error factor from which it is told as a factor."""


def _time(recommendation: Recommendation) -> str:
    speed = recommendation.speed
    if speed is None:
        return recommendation.speed_unknown
    least, most = speed.band
    text = f"About {with_digits(speed.seconds_per_step, 2)} s per step, {speed.tokens_per_second:,.0f} tokens/s"
    if speed.total_seconds is not None:
        text += (
            f"; {speed.steps:,} steps take {duration(least * speed.total_seconds)} to "
            f"{duration(most * speed.total_seconds)}"
        )
    error = (
        f"right to within {most - 1:.0%} on average"
        if most < _LARGE
        else f"right to within a factor of {with_digits(most, 2)}"
    )
    return f"{text} ({speed.basis or 'calculated, not measured'}; {error})."


def _settings(recommendation: Recommendation) -> Iterator[tuple[str, ...]]:
    for advice in recommendation.advice:
        if advice.field in _MAIN_FIELDS:
            also = dict.fromkeys(map(spelled, advice.range))
            joined = (" to " if advice.is_interval else "; ").join(also)
            yield advice.field, spelled(advice.value), joined, advice.reason


def _parts(recommendation: Recommendation) -> Iterator[tuple[str, ...]]:
    for name, size in recommendation.estimate.components.items():
        if size:
            yield name.replace("_", " "), gib(size)
    yield "total", gib(recommendation.estimate.used_bytes)


def _alternatives(recommendation: Recommendation) -> Iterator[tuple[str, ...]]:
    for entry in recommendation.alternatives:
        time = "" if entry.relative_time is None else f"{with_digits(entry.relative_time, 2)} x"
        batch = f"{entry.plan.per_device_train_batch_size} x {entry.plan.gradient_accumulation_steps}"
        yield entry.label, batch, gib(entry.used_bytes), "yes" if entry.fits else "no", time, entry.quality


def _sources(recommendation: Recommendation) -> list[tuple[str]]:
    seen = {(advice.source.title, advice.source.url): None for advice in recommendation.advice if advice.source.url}
    return [(f"{title}: {url}",) for title, url in seen]
