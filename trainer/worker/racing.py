"""A race: plans trained against each other on one loaded model, the worse half dropped at each rung.

One adapter is on the model at a time; the others wait as checkpoints, as a run does that was stopped. Each trial trains
with the trainer of a run, on the same rows in the same order, with the schedule of its whole training: what the winner
has learned when the others are dropped is what a run of its own would have learned by then.
"""

import dataclasses
import gc
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from specs import DataError, FinetunePlan, RunError
from trainer import files
from trainer.failure import NotFiniteError, StopRequestedError, kind_and_sentence
from trainer.model.loaded import LoadedModel
from trainer.results import checkpoints
from trainer.runs import ablation
from trainer.runs.contract import CHECKPOINTS, Metric, Phase
from trainer.runs.race import Race, percent, steps_at
from trainer.runs.session import Session
from trainer.runs.storage import order, trials
from trainer.worker import memory
from trainer.worker.loop.trainers import TENSORBOARD, trainer_of
from trainer.worker.splitting import Rows

_OF_RUN = frozenset({"time", "evaluation"})
"""What a trainer measures of a whole run, which a part of a trial is not."""


_WAYS_OUT = {
    "not_finite": "Race lower learning rates",
    "out_of_memory": "Race smaller batches, or shorten max_length",
}
"""The errors that end one trial and not the race, and what to do if they end all."""


@dataclass(frozen=True, slots=True)
class _Trial(Session):
    """A trial's part in its run: a plan, a folder and a curve of its own; the rest is the run's."""

    number: int = 0
    trial_plan: FinetunePlan | None = None

    @property
    def plan(self) -> FinetunePlan:
        """The plan of the trial."""
        return self.trial_plan or self.run.plan

    @property
    def folder(self) -> Path:
        """The folder of the trial's files."""
        return trials.folder_of(self.store.run_folder(self.run.id), self.number)

    def metric(self, metric: Metric) -> None:
        """Record the metrics of a step in the trial's folder."""
        trials.add_metric(self.store.run_folder(self.run.id), self.number, metric)

    def total_steps(self, total_steps: int) -> None:
        """Leave the run's own number of steps open, which depends on the winner."""

    def event(self, kind: str, text: str) -> None:
        """Record what went wrong; checkpoints of trials are many."""
        if kind == "warning":
            Session.event(self, kind, f"Trial {self.number + 1}: {text}")

    def measured(self, **values: Any) -> None:
        """Record what holds for the whole run, such as the memory that it takes."""
        kept = {name: value for name, value in values.items() if name not in _OF_RUN}
        if kept:
            Session.measured(self, **kept)


class _Rung(TrainerCallback):
    """Ends a trial's training where it is to be compared, and saves it there."""

    def __init__(self, share: float) -> None:
        self._share, self.step, self.total = share, 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Find the step, and train no further if it is reached already."""
        logged = max(1, int(args.logging_steps))
        self.total, self.step = state.max_steps, steps_at(self._share, state.max_steps, logged=logged)
        control.should_training_stop |= state.global_step >= self.step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Save and stop."""
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


class _Course:
    """A race while it is run."""

    def __init__(self, session: Session, race: Race, loaded: LoadedModel, tokenizer: Any, rows: Rows) -> None:
        self._session, self._loaded, self._tokenizer, self._rows = session, loaded, tokenizer, rows
        self.race = race

    def run(self) -> int:
        """Train the trials from rung to rung, leaving out what was done before; return the winner.

        Raises:
            StopRequestedError: If somebody asked the run to stop.
            RunError: If no trial is left.
        """
        race = self.race
        for rung in range(len(race.rungs)):
            entering = self._entering(rung)
            if len(entering) == 1:
                return entering[0]
            for trial in entering:
                if trial not in self.race.out and len(self.race.losses.get(trial, ())) <= rung:
                    self._train(trial, rung)
            self._tell(rung, entering)
        return self._entering(len(race.rungs))[0]

    def _entering(self, rung: int) -> tuple[int, ...]:
        entering = self.race.entering(rung)
        if not entering:
            kinds = {kind for kind, _ in self.race.out.values()}
            rule = "needs a plan that can be trained to its end, and all of its plans failed"
            raise RunError("race", rule, None, ". ".join(_WAYS_OUT[kind] for kind in sorted(kinds)))
        return entering

    def _train(self, trial: int, rung: int) -> None:
        """Train one trial to a rung, and record its held-out loss there, or why it has none."""
        self._note(now=trial)
        try:
            found, total = self._reached(trial, rung)
        except (NotFiniteError, RuntimeError) as error:
            kind, sentence = kind_and_sentence(error)
            if kind not in _WAYS_OUT:
                raise
            self._session.event("warning", f"Trial {trial + 1} is out: {sentence}")
            self._note(out={**self.race.out, trial: (kind, sentence)})
            return
        finally:
            self._session.measured(**memory.peaks(self._session.device))
            _free()
        losses = {**self.race.losses, trial: (*self.race.losses.get(trial, ()), found)}
        self._note(losses=losses, steps={**self.race.steps, trial: total})
        if self.race.repeats:
            self._forget_all_but_the_best(trial)

    def _forget_all_but_the_best(self, newest: int) -> None:
        """Remove the checkpoints of an ablation but those of the best plan, and of one that may become it."""
        group = self.race.group(newest)
        kept = {self.race.best} if newest == group[-1] else {self.race.best, group[0]}
        for trial in self.race.losses.keys() - kept:
            folder = trials.folder_of(self._session.store.run_folder(self._session.run.id), trial)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def _reached(self, trial: int, rung: int) -> tuple[float, int]:
        """Return the held-out loss of a trial at a rung, and the steps of its whole training."""
        plan = self.race.plan_of(trial, self._session.plan)
        session = _trial_of(self._session, trial, plan)
        session.folder.mkdir(parents=True, exist_ok=True)
        until = _Rung(self.race.rungs[rung])
        trainer = trainer_of(session, self._loaded.adapted(plan), self._tokenizer, self._rows)
        trainer.add_callback(until)
        trainer.args.load_best_model_at_end = False  # what is compared are the weights that train on
        newest, before = checkpoints.newest(session.folder), self._clock()
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        taken = self.race.seconds.get(trial, 0.0) + self._clock() - before
        self._note(seconds={**self.race.seconds, trial: round(taken, 3)})
        if trainer.state.global_step < until.step and session.stop.is_set():
            raise StopRequestedError
        # After the checkpoint: reading the rows takes a random number, which a run of its own does not take here.
        known = [entry["eval_loss"] for entry in trainer.state.log_history if _is_of(entry, trainer.state.global_step)]
        loss = known[-1] if known else trainer.evaluate()["eval_loss"]
        return float(loss), int(until.total)

    def _clock(self) -> float:
        return time.process_time() if self._session.device == "cpu" else time.monotonic()

    def _note(self, **values: Any) -> None:
        self.race = dataclasses.replace(self.race, **values)
        self._session.race(self.race)

    def _tell(self, rung: int, entering: tuple[int, ...]) -> None:
        """Record which trials were compared, and which go on."""
        if self.race.repeats:
            found = ablation.results(self.race, self._session.plan)
            self._session.event("race", ablation.sentence(found))
            return
        told = [
            f"{self.race.label(trial, self._session.plan)} {self.race.losses[trial][rung]:.4f}"
            for trial in self.race.ranked(rung, entering)
        ]
        share = percent(self.race.rungs[rung])
        self._session.event("race", f"Held-out loss after {share} of the steps: {'; '.join(told)}.")


def raced(session: Session, loaded: LoadedModel, tokenizer: Any, rows: Rows) -> Session:
    """Hold the race of a run, unless it is decided; return the session with the plan of its winner.

    Raises:
        DataError: If there are no held-out rows to compare trials on.
        StopRequestedError: If somebody asked the run to stop.
        RunError: If no trial is left.
    """
    race = session.run.race
    if race is None:
        return session
    if rows.held_out is None:
        raise DataError("eval_split", "must hold out rows to race on", session.plan.eval_split, "Set it to 0.1")
    if race.winner is None:
        if session.stop_wanted() or not session.begin():
            raise StopRequestedError
        session.enter(Phase.RACING)
        course = _Course(session, race, loaded, tokenizer, rows)
        winner = course.run()
        session = dataclasses.replace(session, run=session.decide_race(winner))
        label = course.race.label(winner, session.plan)
        session.event("race", f"{label} is the result." if race.repeats else f"{label} goes on to the end.")
    _settle(session, session.run.race or race)
    return session


def _settle(session: Session, race: Race) -> None:
    """Give the winner's files to the run and make the others runs of their own; again if a worker before was killed."""
    home = session.folder / trials.FOLDER
    for trial in range(len(race.changes)):
        folder = trials.folder_of(session.folder, trial)
        if not folder.is_dir():
            continue
        if trial == race.winner:
            _move(folder, session.folder)
        elif not race.repeats:
            _move(folder, session.keep_trial(trial), newest_only=True)
        shutil.rmtree(folder)
    shutil.rmtree(home, ignore_errors=True)


def _move(folder: Path, target: Path, *, newest_only: bool = False) -> None:
    """Move checkpoints, curves and order of rows of a trial to the folder of its run; what was moved before stays."""
    newest = checkpoints.newest(folder)
    for checkpoint in sorted((folder / CHECKPOINTS).glob("checkpoint-*")):
        if not newest_only or checkpoint == newest:
            home = target / CHECKPOINTS
            home.mkdir(exist_ok=True)
            _correct(checkpoint, home)
            files.move(checkpoint, home / checkpoint.name)
    for name in (TENSORBOARD, order.FOLDER):
        if (folder / name).is_dir():
            files.move(folder / name, target / name)


def _correct(checkpoint: Path, home: Path) -> None:
    """Let a checkpoint name the best one by the folder that it is moved to."""
    path = checkpoint / checkpoints.STATE
    if not path.is_file():
        return
    state = json.loads(path.read_text(encoding="utf-8"))
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = str(home / Path(state["best_model_checkpoint"]).name)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(state, indent=2), encoding="utf-8")
        scratch.replace(path)


def _trial_of(session: Session, number: int, plan: FinetunePlan) -> _Trial:
    shared = {entry.name: getattr(session, entry.name) for entry in dataclasses.fields(session)}
    return _Trial(**shared, number=number, trial_plan=plan)


def _is_of(entry: dict[str, Any], step: int) -> bool:
    return entry.get("step") == step and "eval_loss" in entry


def _free() -> None:
    """Give back what the trainer of a trial held: the next one needs the memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
