"""Prints runs: one as it is, or what it does until it is over."""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence

from specs import TASK_TYPES, gib
from specs.doors.door import INTERRUPTED
from specs.units import with_digits
from trainer.commands import racing
from trainer.results import best
from trainer.runs import distance, launcher, peaks
from trainer.runs.cards import evaluation, judged
from trainer.runs.combinations import combined_in_words
from trainer.runs.contract import Answer, Metric, Run, State
from trainer.runs.diagnosis import Diagnosis, diagnoses, perplexity
from trainer.runs.export import run_dict
from trainer.runs.storage import order
from trainer.runs.store import Store

_POLL_SECONDS = 0.5


def watch(store: Store, run_id: str, *, as_json: bool = False) -> int:
    """Print what a run does until it is over; return 0, or 1 if it failed or was lost."""
    try:
        return _watched(store, run_id, as_json=as_json)
    except KeyboardInterrupt:
        print("The run continues in the background; use `show` to see it and `stop` to end it.", file=sys.stderr)
        return INTERRUPTED


def _watched(store: Store, run_id: str, *, as_json: bool) -> int:
    reporter = _Reporter()
    while True:
        run = store.run(run_id)
        if not as_json:
            for line in reporter.news(run, store):
                print(line, flush=True)
        if run.is_over:
            show(run, store, as_json=as_json)
            return 0 if run.state in {State.FINISHED, State.STOPPED} else 1
        time.sleep(_POLL_SECONDS)


class _Reporter:
    """What was already printed about a run, so that each step, phase and diagnosis appears once."""

    def __init__(self) -> None:
        self._points: tuple[Metric, ...] = ()
        self._seen: set[object] = set()
        self._racing = racing.Progress()

    def news(self, run: Run, store: Store) -> Iterator[str]:
        points = store.metrics(run.id, after_step=self._points[-1].step if self._points else 0)
        self._points += points
        yield from (f"{label}  {_line(metric, run)}" for label, metric in self._racing.news(run, store))
        yield from (_line(metric, run) for metric in points if self._racing.is_new(run, metric))
        facts: dict[object, str] = {(run.state, run.phase): f"{run.id}: {run.state}, {run.phase.words}"}
        if points:
            facts |= {
                found.name: f"{run.id}: {diagnosis_line(found, run)}"
                for found in diagnoses(self._points, run.plan.method)
            }
        if run.race is not None:
            told = (event.text for event in store.events(run.id) if event.kind == "race")
            facts |= {text: f"{run.id}: {text}" for text in told}
        yield from (line for fact, line in facts.items() if fact not in self._seen)
        self._seen |= facts.keys()


def _line(metric: Metric, run: Run) -> str:
    parts = [f"step {metric.step}/{run.total_steps or '?'}"]
    for label, value, form in (
        ("loss", metric.loss, ".4f"),
        ("eval loss", metric.eval_loss, ".4f"),
        ("learning rate", metric.learning_rate, ".2e"),
        ("tokens/s", metric.tokens_per_second, ",.0f"),
        ("seconds left", metric.eta_seconds, ",.0f"),
    ):
        if value is not None:
            parts.append(f"{label} {value:{form}}")
    if metric.memory_bytes is not None:
        parts.append(gib(metric.memory_bytes))
    return "  ".join(parts)


def _processes_and_files(run: Run, store: Store) -> Iterator[str]:
    """Yield the command that starts the processes of a run on several devices, and where its files are."""
    if run.plan.num_gpus > 1:
        yield f"  processes: {shlex.join(['python', *launcher.worker_arguments(store, run)])}"
    yield f"  files: {store.run_folder(run.id)}"


def show(run: Run, store: Store, *, as_json: bool = False) -> None:
    """Print a run: its state, loss, memory, error, answers and folder."""
    metrics = store.metrics(run.id)
    if as_json:
        described = run_dict(run)
        described["metrics"] = [dataclasses.asdict(metric) for metric in metrics]
        folder = store.run_folder(run.id)
        described["diagnoses"] = [
            {**dataclasses.asdict(found), "rows": order.rows_of(folder, found.step) if found.step else []}
            for found in diagnoses(metrics, run.plan.method)
        ]
        described["race"] = racing.described(run)
        described["answers"] = [dataclasses.asdict(answer) for answer in store.answers(run.id)]
        print(json.dumps(described, indent=2))
        return
    losses = [metric.loss for metric in metrics if metric.loss is not None]
    print("\n".join(_heading(run)))
    held_out = [metric.eval_loss for metric in metrics if metric.eval_loss is not None]
    for line in (*_learned(run, losses, held_out), *(f"  {words}" for words in best.told(store, run, metrics))):
        print(line)
    for words in _memory(run):
        print(f"  memory: {words}")
    if run.error:
        print(f"  {run.error}")
    if run.place.parent_id:
        print(f"  {_repeated(run, run.place.parent_id, store)}")
    for found in diagnoses(metrics, run.plan.method):
        print(f"  {diagnosis_line(found, run)}", *_rows_behind(found, run, store), sep="\n")
    for answer in store.answers(run.id):
        print(f"  {answer.prompt}\n" + "\n".join(_sides(run, answer)))
    print(*_processes_and_files(run, store), sep="\n")


def _memory(run: Run) -> Iterator[str]:
    """Yield what a run took at most, and what each of its processes did, beside what was predicted."""
    if "peak_used_bytes" in run.measured:
        predicted = (run.estimate or {}).get("used_bytes")
        expected = f", predicted {gib(predicted)}" if predicted else ""
        yield f"measured peak {gib(run.measured['peak_used_bytes'])}{expected}"
    if each := peaks.of_each(run):
        yield each


def _rows_behind(found: Diagnosis, run: Run, store: Store) -> Iterator[str]:
    """Yield the rows of the step that a diagnosis names, with their beginnings."""
    if found.step is None:
        return
    rows = order.told(run, store.run_folder(run.id), found.step)
    yield from (f"    row {number:,} of step {found.step:,}: {text}".rstrip(": ") for number, text in rows.items())


def _repeated(run: Run, parent_id: str, store: Store) -> str:
    """Return which run this one repeats, and whether with other settings."""
    parent = store.find(parent_id)
    if parent is None:
        return f"repeats {parent_id}, which was deleted"
    if run.left_race:
        return f"was dropped in the race of {parent_id}"
    return f"repeats {parent_id} with {'the same' if parent.plan == run.plan else 'other'} settings"


def _heading(run: Run) -> Iterator[str]:
    """Yield the state of a run, and what its person says of it."""
    if run.parts:
        yield f"{run.id}: combines {combined_in_words(run)}"
    else:
        yield f"{run.id}: {run.state}, step {run.step}/{run.total_steps or '?'}"
    places = (distance.where(run), distance.connection(run))
    yield from (f"  {words}" for words in (*places, run.name, run.note, "archived" if run.archived_at else "") if words)
    if run.race is not None:
        yield from racing.lines(run, run.race)


def _learned(run: Run, losses: Sequence[float], held_out: Sequence[float]) -> Iterator[str]:
    """Yield how the loss went, and what was measured on held-out rows."""
    if losses:
        yield f"  loss {losses[0]:.4f} -> {losses[-1]:.4f}"
    if held_out:
        more = f", perplexity {with_digits(perplexity(held_out[-1]), 4)}" if run.has_perplexity else ""
        yield f"  held-out loss {held_out[0]:.4f} -> {held_out[-1]:.4f}{more}"
    yield from (f"  {told}" for told in (evaluation(run), judged(run)) if told)


def _sides(run: Run, answer: Answer) -> Iterator[str]:
    """Yield the lines of an answer: before and after, or the class in the data and those that were found."""
    if TASK_TYPES[run.plan.task_type].has_head:
        yield from ([f"    in the data: {answer.base}"] if answer.base else [])
        yield f"    found: {answer.tuned}"
        return
    if wanted := run.expected(answer.prompt):
        yield f"    data:   {wanted}"
    yield f"    before: {answer.base}"
    yield f"    after:  {answer.tuned}"


def diagnosis_line(found: Diagnosis, run: Run) -> str:
    """Return a diagnosis in one line: the finding, what to change, and the rule."""
    remedy = found.remedy(run.plan)
    change = f"{found.advice} Try {remedy}." if remedy else found.advice
    return f"{found.name}: {found.sentence} {change} Rule: {found.rule}"
