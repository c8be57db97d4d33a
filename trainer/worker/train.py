"""One run, from its plan to its adapter: loads, tokenizes, trains, saves and answers the prompts."""

import copy
import importlib
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Event, Timer
from typing import Any, NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from specs import TASK_TYPES, SpecError
from trainer import files
from trainer.failure import DiskFullError, StopRequestedError
from trainer.model.loaded import LoadedModel
from trainer.results import checkpoints
from trainer.results.answers import answered
from trainer.results.found import adapter_off, found_in_each
from trainer.runs import cards
from trainer.runs.contract import Answer, Phase, State
from trainer.runs.export import RESULT
from trainer.runs.feasibility import require_feasible
from trainer.runs.session import Session
from trainer.worker import distributed, memory
from trainer.worker.ground import ground
from trainer.worker.loop.callbacks import measures
from trainer.worker.loop.sharding import gathered, is_sharded
from trainer.worker.loop.trainers import trainer_of
from trainer.worker.racing import raced
from trainer.worker.rows import tokenized_rows
from trainer.worker.splitting import Rows

_SPACE_SECONDS = 10.0
"""How often to check a full disk again before saving the result, which until then exists only in memory."""
STOPPED_SECONDS = 20.0
"""How long a stopped run may spend on the prompts, since its device is wanted. A finished run answers them all."""
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


class _Asked(NamedTuple):
    """The prompts of a run, which both models answer."""

    session: Session
    rows: Rows
    together: bool
    """Whether each process holds only a part of the model, so that all must ask it."""

    def said(self, model: Any, tokenizer: Any, prompts: Sequence[str], *, until: Event) -> list[str]:
        """Return what a model says to prompts, or how alike it finds their texts; empty where it is not asked."""
        task = TASK_TYPES[self.session.plan.task_type]
        if not (self.session.leads or self.together):
            return []
        if task.writes:
            return answered(model, tokenizer, prompts, until=until)
        return found_in_each(task.name, model, tokenizer, prompts, until=until, number_of_texts=self.rows.texts)

    def agreed(self, event: Event) -> Any:
        """Return an event that all who ask see alike."""
        return distributed.Agreed(event) if self.together else event

    def answers(self, model: Any, tokenizer: Any, before: Sequence[str] | None) -> Iterator[Answer]:
        """Yield the answer of the tuned and of the base model to each prompt.

        Args:
            model: The tuned model, whose adapter can be switched off.
            tokenizer: The model's.
            before: The base model's answers if they had to be taken before the training.
        """
        hurry = self.agreed(self.session.hurry)
        for number, prompt in enumerate(self.rows.prompts):
            (tuned,) = self.said(model, tokenizer, [prompt], until=hurry)
            if before is not None:
                base = before[number]
            else:
                with adapter_off(model):
                    (base,) = self.said(model, tokenizer, [prompt], until=hurry)
            yield Answer(prompt=prompt, base=base, tuned=tuned)


def _found(session: Session, model: Any, tokenizer: Any, rows: Rows) -> Iterator[Answer]:
    """Yield for each text what the tuned model finds in it, beside what the data has if it is known.

    The base model finds nothing: its head is new.
    """
    for text in rows.prompts:
        (found,) = found_in_each(
            session.plan.task_type, model, tokenizer, [text], until=session.hurry, number_of_texts=rows.texts
        )
        yield Answer(prompt=text, base=rows.expected.get(text, ""), tuned=found)


def train(session: Session) -> State:
    """Execute a run; return whether it finished or was stopped."""
    run, plan = session.run, session.plan
    _set_out(session)
    _enter(session, Phase.LOADING)
    tokenizer = _tokenizer(run.model)
    loaded = LoadedModel(plan, run.model, device=session.device)
    _enter(session, Phase.TOKENIZING)
    model, prompts = _as_trained(session, loaded.adapted(plan))
    with tokenized_rows(session, tokenizer, prompts) as rows:
        _require_space(session, model)
        if run.race is not None:
            session = raced(session, loaded, tokenizer, rows)
            model = loaded.adapted(session.plan)
        trainer = trainer_of(session, model, tokenizer, rows)
        has_head = TASK_TYPES[plan.task_type].has_head
        answers_first = not (plan.keeps_base or has_head)
        asked = _Asked(session, rows, together=is_sharded(plan))
        until = asked.agreed(session.stop)
        before = asked.said(model, tokenizer, rows.prompts, until=until) if answers_first else None
        state = _train_steps(session, trainer)
    weights = gathered(trainer.model) if asked.together else None
    if weights is None:
        distributed.leave()
    session.enter(Phase.SAVING)
    if session.leads:
        _save(session, trainer.model, tokenizer, weights)
    if session.leads or asked.together:
        answers = (
            _found(session, trainer.model, tokenizer, rows)
            if has_head
            else asked.answers(trainer.model, tokenizer, before)
        )
        _answer(session, answers, stopped=state is State.STOPPED)
    distributed.leave()
    return state


def _set_out(session: Session) -> None:
    """Check that the run can be trained here, and record what with."""
    plan = session.plan
    require_feasible(plan, ground(session.device))
    if plan.num_gpus > 1:
        distributed.join(session.device)
    if session.leads:
        files.tidy(session.folder)
    session.details(libraries={name: version(name) for name in _LIBRARIES}, python=platform.python_version())
    session.measured(baseline_bytes=memory.used_bytes(session.device))
    set_seed(plan.seed)


def _require_space(session: Session, model: Any) -> None:
    """Refuse to begin where the disk has no room for the checkpoints, of each trial if there is a race to be held.

    Raises:
        DiskFullError: If too little is free.
    """
    race = session.run.race
    trials = race.most_kept if race is not None and session.run.races else 1
    needed = trials * (checkpoints.KEPT + 2) * checkpoints.trained_bytes(model)
    files.require_space(session.folder, needed, "storing the run")


def _as_trained(session: Session, model: Any) -> tuple[Any, Mapping[str, str]]:
    """Return a model as its trainer takes it, and the prompts that it puts before texts: those of embeddings."""
    if not TASK_TYPES[session.plan.task_type].embeds:
        return model, {}
    embedding = importlib.import_module("trainer.model.embedding")  # sentence-transformers takes seconds to import
    made = embedding.sentence_transformer(session.plan, model, session.run.model, device=session.device)
    return made, dict(made.prompts)


def _enter(session: Session, phase: Phase) -> None:
    """Record the phase, or end the run if it is to stop before it starts to train.

    Raises:
        StopRequestedError: If somebody asked the run to stop.
    """
    if distributed.any_of(session.stop_wanted()):
        raise StopRequestedError
    session.enter(phase)


def _train_steps(session: Session, trainer: Any) -> State:
    """Train from the newest checkpoint, or from the start; return whether all steps were done."""
    _enter(session, Phase.TRAINING)
    if not distributed.from_leader(session.begin()):
        raise StopRequestedError
    resumed = distributed.from_leader(checkpoints.newest(session.folder))
    if resumed is None and session.run.step:
        session.event("warning", "No checkpoint can be read, so the run begins anew.")
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        _evaluate_last(session, trainer)
    finally:
        # Even if the run ran out of memory: the peak shows by how much.
        session.measured(**memory.peaks(session.device))
    each = distributed.from_each(memory.peaks(session.device)["peak_used_bytes"])
    session.measured(peak_used_bytes_of_each=each)
    stopped = distributed.any_of(session.stop.is_set()) and trainer.state.global_step < trainer.state.max_steps
    return State.STOPPED if stopped else State.FINISHED


def _evaluate_last(session: Session, trainer: Any) -> None:
    """Measure the weights that are kept on the held-out rows, where that says more than the loss: once if possible."""
    plan, state = session.plan, trainer.state
    if not TASK_TYPES[plan.task_type].measures or trainer.eval_dataset is None:
        return
    kept = state.best_global_step if plan.load_best_model_at_end and state.best_global_step else state.global_step
    known = [entry for entry in state.log_history if entry["step"] == kept and measures(plan, entry)]
    if known:
        session.measured(evaluation={"step": kept, **measures(plan, known[-1])})
    elif not distributed.any_of(session.stop.is_set()):
        trainer.evaluate()


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=Path(source).is_dir(), use_fast=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(source, "has no tokenizer that transformers can load", str(error)) from error
    if not tokenizer.is_fast:
        raise SpecError(source, "needs a fast tokenizer (tokenizer.json)", type(tokenizer).__name__)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _save(session: Session, model: Any, tokenizer: PreTrainedTokenizerBase, weights: Mapping[str, Any] | None) -> None:
    """Write the adapter (or the model) and its tokenizer, completely or not at all; wait while the disk is full.

    Args:
        session: The run.
        model: The trained model.
        tokenizer: Its tokenizer.
        weights: The trained weights where the model has only a part of each.
    """
    while True:
        try:
            files.require_space(session.folder, checkpoints.trained_bytes(model), "saving the result")
            break
        except DiskFullError as error:
            session.event("warning", str(error))
            time.sleep(_SPACE_SECONDS)
    session.require_ours()
    session.details(result_step=None)
    with files.replaced(session.folder / RESULT) as target:
        own_card = {"create_model_card": False} if TASK_TYPES[session.plan.task_type].embeds else {}
        gathered_ones = {} if weights is None else {"state_dict": dict(weights)}
        model.save_pretrained(target, **own_card, **gathered_ones)
        if TASK_TYPES[session.plan.task_type].has_head:
            _save_classes(model.config, target)
        tokenizer.save_pretrained(target)
        # In place of PEFT's, which names the folder of the base model.
        run = session.store.run(session.run.id)
        card = cards.model_card(run, session.store.metrics(run.id))
        (target / "README.md").write_text(card, encoding="utf-8")


def _save_classes(config: Any, target: Path) -> None:
    """Write the configuration, which names the classes, beside an adapter, which does not."""
    kept = copy.deepcopy(config)
    if hasattr(kept, "quantization_config"):
        del kept.quantization_config  # of the base model in this run, which may be loaded otherwise
    kept.save_pretrained(target)


def _answer(session: Session, given: Iterator[Answer], *, stopped: bool) -> None:
    """Record answers, prompt by prompt, as long as somebody waits.

    The run is saved by now, so a failure here does not fail it. A stopped run answers only for a short time.
    """
    hurry: Any = distributed.Agreed(session.hurry) if is_sharded(session.plan) else session.hurry
    if hurry.is_set():
        return
    session.enter(Phase.EVALUATING)
    patience = Timer(STOPPED_SECONDS, session.hurry.set)
    if stopped:
        patience.start()
    answers: list[Answer] = []
    try:
        for answer in given:
            if hurry.is_set():
                break
            answers.append(answer)
    except (RuntimeError, MemoryError, ValueError, TypeError) as error:
        session.event("warning", f"The prompts could not be answered: {type(error).__name__}: {error}")
    finally:
        patience.cancel()
    if answers:
        session.answers(answers)
