"""Holds a run's model against its base: ``python -m trainer.worker.evaluating RUNS_FOLDER RUN_ID WANTED``.

Both models read the same rows that were not learned: the loss of what is to be learned, answers written without
sampling, or classes and tags found; and both read general text, which tells what was forgotten. What is found is
written in one piece at the end, so that an evaluation that is stopped or killed leaves the one before it.
"""

import importlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from transformers import AutoTokenizer

from specs import TASK_TYPES, DataError, FinetunePlan, LorafitError, RunError
from specs.doors import faults
from trainer.data.examples import first_example
from trainer.data.tested import TESTS, RowTest, tests_of
from trainer.failure import StopRequestedError, kind_and_sentence
from trainer.results import evaluation, judgement
from trainer.results.chat import TUNED
from trainer.results.evaluation import Stage, Wanted
from trainer.results.voices import Voices
from trainer.runs.contract import Run
from trainer.runs.export import result_folder
from trainer.runs.output import guard_output
from trainer.runs.session import Session
from trainer.runs.store import Store
from trainer.worker.judging.benchmark import Benchmark
from trainer.worker.judging.choosing import judge_of
from trainer.worker.judging.reading import general_passages
from trainer.worker.judging.texts import Texts
from trainer.worker.rows import NO_PROMPTS, unlearned_rows
from trainer.worker.splitting import drawn

_POLL_SECONDS = 0.5

_WORDING = {
    "out_of_memory": (
        "needs more memory than its device has free",
        None,
        "Close what else uses it, or ask for 0 answers",
    ),
    "disk_full": ("finds no space where the runs are stored", None, "Free some space and evaluate again"),
}
"""What an evaluation says of failures that a run's sentence would explain by its training: rule, value, way out."""


class _Progress:
    """How far the evaluation is, in a file that others read."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._done, self._of, self._told = folder, 0, 0, 0.0
        self.over = ""
        """Why the evaluation is to end before its time."""
        self.stop = Event()

    def begin(self, of: int) -> None:
        """Say how much there is to do."""
        self._of = of
        self._tell("loading the model")

    def done(self, count: int, what: str) -> None:
        """Say that something is done.

        Raises:
            StopRequestedError: If the evaluation is to end.
        """
        if self.stop.is_set():
            raise StopRequestedError
        self._done += count
        if time.monotonic() - self._told > _POLL_SECONDS:
            self._tell(what)

    def end(self, stage: Stage, sentence: str = "") -> None:
        """Say how the evaluation ended."""
        self._write(evaluation.PROGRESS, {"stage": stage, "done": self._done, "of": self._of, "sentence": sentence})

    def keep(self, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what was found; the rows first, since whoever sees the whole may ask for them."""
        self._write(evaluation.ROWS, {"rows": rows})
        self._write(evaluation.FOUND, found)

    def watch(self, store: Store, run: Run) -> None:
        """Notice when somebody asks for the end, or a run takes the device."""
        while not self.stop.is_set():
            holder = None
            with suppress(sqlite3.Error, OSError, LorafitError):  # a store that cannot be read now may be in a moment
                holder = store.holder(run.place.device)
            if (self._folder / evaluation.STOP).exists():
                self.over = "Stopped."
            elif holder is not None:
                self.over = f"Run {holder.id} has started on this device, so the evaluation ended. Start it later."
            if self.over:
                self.stop.set()
            self.stop.wait(_POLL_SECONDS)

    def _tell(self, what: str) -> None:
        self._told = time.monotonic()
        self._write(evaluation.PROGRESS, {"done": self._done, "of": self._of, "sentence": what})

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        written = self._folder / f"{name}.new"
        written.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        written.replace(self._folder / name)


def evaluate(session: Session, wanted: Wanted, progress: _Progress) -> None:
    """Compare both models and keep what was found.

    Raises:
        DataError: If there are no rows that were not learned.
        RunError: If the task has nothing to be compared with.
        StopRequestedError: If the evaluation is to end.
    """
    began, plan, run = time.monotonic(), session.plan, session.run
    _require_judged(plan)
    tokenizer = AutoTokenizer.from_pretrained(
        result_folder(session.store, run), trust_remote_code=False, local_files_only=True
    )
    with unlearned_rows(session, tokenizer, wanted.data, _prompts(session)) as data:
        of, rows = len(data), drawn(data, wanted.rows, seed=plan.seed)
    layout = first_example(wanted.data or run.data).layout
    judge = judge_of(plan, tokenizer, rows, answers=wanted.answers, general=general_passages(), layout=layout)
    if wanted.run_code and isinstance(judge, Texts):
        judge.run_code(_tests(run, wanted, rows))
    tasks = [Benchmark(wanted.benchmark, limit=wanted.limit, tokenizer=tokenizer)] if wanted.benchmark else []
    progress.begin(len(judge.voices) * (judge.work + len(tasks)))
    voices = Voices(session)
    for voice in judge.voices:
        with voices.model(voice) as model:
            told = f"the {'tuned' if voice == TUNED else 'base'} model reads"
            for count in judge.read(voice, model, progress.stop):
                progress.done(count, told)
            for task in tasks:
                task.read(voice, model, progress.stop)
                progress.done(1, told)
    compared = [*judge.compared(), *(one for task in tasks for one in task.compared())]
    basis = _basis(run, wanted)
    verdict = judgement.verdict(compared, basis=basis, of=of)
    found = {
        "verdict": verdict,
        "compared": judgement.as_json(compared),
        "rows": len(rows),
        "of": of,
        "basis": basis,
        "notes": [*judge.notes],
        "step": run.result_step,
        "seconds": round(time.monotonic() - began, 1),
    }
    progress.keep(found, judge.told())
    session.store.add_measured(run.id, judged={"step": run.result_step, **verdict})


def _basis(run: Run, wanted: Wanted) -> str:
    """Return which rows are read, in words; a file that the run learned from says nothing of other rows."""
    if wanted.data is None:
        return "rows that were not learned"
    # What was found is kept and shown as UTF-8, which a file's name need not be.
    name = Path(wanted.data.path).name.encode(errors="backslashreplace").decode()
    split = wanted.data.split
    name = f"split {split} of {name}" if split != "train" else name
    same_file = wanted.data.require_unchanged(None) == run.details.get("data_sha256")
    is_learned = same_file and split == run.data.split
    return f"rows of {name}, from which the model learned" if is_learned else f"rows of {name}"


def _tests(run: Run, wanted: Wanted, rows: Sequence[Mapping[str, Any]]) -> Mapping[int, RowTest]:
    """Return the tests of rows by their places.

    Raises:
        DataError: If none of the rows brings one.
    """
    source = wanted.data or replace(run.data, split=run.data.evaluation_split or run.data.split)
    found = tests_of(source, [row["row"] for row in rows])
    if not found:
        rule = f"needs rows with a test, in a column named {', '.join(TESTS[:-1])} or {TESTS[-1]}"
        raise DataError("--run-code", rule, None, "Leave it out, or evaluate on other rows")
    return {place: found[row["row"]] for place, row in enumerate(rows) if row["row"] in found}


def _require_judged(plan: FinetunePlan) -> None:
    """Refuse a task whose base model can do nothing of it.

    Raises:
        RunError: If it is one.
    """
    label, way_out = TASK_TYPES[plan.task_type].label, "See what the run measured on its held-out rows"
    if plan.task_type == "QUESTION_ANS":
        rule = f"has nothing to hold a model for {label} against: the base model has no head for it"
        raise RunError("evaluation", rule, None, way_out)
    if plan.embedding_loss == "CoSENTLoss" and TASK_TYPES[plan.task_type].embeds:
        rule = f"needs pairs of which one text is right; those with scores have none to find ({label})"
        raise RunError("evaluation", rule, None, way_out)


def _prompts(session: Session) -> Mapping[str, str]:
    """Return what the model puts before a text that is to be embedded, by its kind."""
    if not TASK_TYPES[session.plan.task_type].embeds:
        return NO_PROMPTS
    # It brings sentence-transformers, which takes seconds to import.
    found = importlib.import_module("trainer.model.embedding").embedding_in(session.run.model)
    return dict(found.prompts) if found else NO_PROMPTS


def _sentence(error: Exception) -> str:
    """Return why an evaluation failed and what helps."""
    kind, sentence = kind_and_sentence(error)
    if isinstance(error, LorafitError):
        return sentence
    rule, found, way_out = _WORDING.get(kind) or (
        f"ended with {type(error).__name__}",
        str(error).partition("\n")[0],
        "",
    )
    return str(RunError("evaluation", rule, found, way_out or f"The full message is in {evaluation.LOG} of the run"))


def main(arguments: Sequence[str]) -> int:
    """Evaluate one run; return the exit status."""
    folder, run_id, wanted = arguments
    store = Store(Path(folder))
    run = store.run(run_id)
    progress = _Progress(store.run_folder(run_id) / evaluation.FOLDER)
    threading.Thread(target=progress.watch, args=(store, run), daemon=True).start()
    try:
        evaluate(Session(run, store, progress.stop), Wanted.from_json(wanted), progress)
    except StopRequestedError:
        progress.end("stopped", progress.over)
    except Exception as error:  # noqa: BLE001 - whatever it is, its traceback goes into the log and a sentence remains
        sys.stderr.write(faults.traceback_text(error))
        progress.end("failed", _sentence(error))
        return 1
    else:
        progress.end("done")
    return 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main(sys.argv[1:]))
