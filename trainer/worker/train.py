"""One run, from its plan to its adapter: loads, tokenizes, trains, saves and answers the prompts."""

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from specs import SpecError
from trainer import files
from trainer.failure import DiskFullError, StopRequestedError
from trainer.model.build import build
from trainer.results.answers import answered
from trainer.runs.contract import Answer, Phase, State
from trainer.runs.export import RESULT
from trainer.runs.feasibility import require_feasible
from trainer.runs.session import Session
from trainer.worker import checkpoints, distributed, memory
from trainer.worker.ground import ground
from trainer.worker.rows import tokenized_rows
from trainer.worker.trainers import trainer_of

_SPACE_SECONDS = 10.0
"""How often to check a full disk again before saving the result, which until then exists only in memory."""
STOPPED_SECONDS = 20.0
"""How long a stopped run may spend on the prompts, since its device is wanted. A finished run answers them all."""
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


class _Asked(NamedTuple):
    """The prompts, and the base model's answers if they had to be taken before the training."""

    prompts: Sequence[str]
    before: Sequence[str] | None


def train(session: Session) -> State:
    """Execute a run; return whether it finished or was stopped."""
    run, plan = session.run, session.plan
    require_feasible(plan, ground(session.device))
    if plan.num_gpus > 1:
        distributed.join(session.device)
    if session.leads:
        files.tidy(session.folder)
    session.details(libraries={name: version(name) for name in _LIBRARIES}, python=platform.python_version())
    session.measured(baseline_bytes=memory.used_bytes(session.device))
    set_seed(plan.seed)
    _enter(session, Phase.LOADING)
    tokenizer = _tokenizer(run.model)
    model = build(plan, run.model, device=session.device)
    _enter(session, Phase.TOKENIZING)
    with tokenized_rows(session, tokenizer) as rows:
        needed = (checkpoints.KEPT + 2) * checkpoints.trained_bytes(model)
        files.require_space(session.folder, needed, "storing the run")
        trainer = trainer_of(session, model, tokenizer, rows)
        before = None if plan.keeps_base else _asked(session, model, tokenizer, rows.prompts)
        state = _train_steps(session, trainer)
    distributed.leave()
    if session.leads:
        session.enter(Phase.SAVING)
        _save(session, trainer.model, tokenizer)
        _answer(session, trainer.model, tokenizer, _Asked(rows.prompts, before), stopped=state is State.STOPPED)
    return state


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
    finally:
        # Even if the run ran out of memory: the peak shows by how much.
        session.measured(**memory.peaks(session.device))
    stopped = distributed.any_of(session.stop.is_set()) and trainer.state.global_step < trainer.state.max_steps
    return State.STOPPED if stopped else State.FINISHED


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


def _save(session: Session, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the adapter (or the model) and its tokenizer, completely or not at all; wait while the disk is full."""
    while True:
        try:
            files.require_space(session.folder, checkpoints.trained_bytes(model), "saving the result")
            break
        except DiskFullError as error:
            session.event("warning", str(error))
            time.sleep(_SPACE_SECONDS)
    session.require_ours()
    with files.replaced(session.folder / RESULT) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _asked(session: Session, model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Return the base model's answers before a training that cannot be undone; empty if the run is to stop."""
    return answered(model, tokenizer, prompts, until=session.stop) if session.leads else []


def _answer(session: Session, model: Any, tokenizer: Any, asked: _Asked, *, stopped: bool) -> None:
    """Let the tuned model and the base model answer, prompt by prompt, as long as somebody waits.

    The run is saved by now, so a failure here does not fail it. A stopped run answers only for a short time.
    """
    if session.hurry.is_set():
        return
    session.enter(Phase.EVALUATING)
    patience = Timer(STOPPED_SECONDS, session.hurry.set)
    if stopped:
        patience.start()
    answers: list[Answer] = []
    try:
        for number, prompt in enumerate(asked.prompts):
            (tuned,) = answered(model, tokenizer, [prompt], until=session.hurry)
            base = asked.before[number] if asked.before is not None else _base(session, model, tokenizer, prompt)
            if session.hurry.is_set():
                break
            answers.append(Answer(prompt=prompt, base=base, tuned=tuned))
    except (RuntimeError, MemoryError, ValueError, TypeError) as error:
        session.event("warning", f"The prompts could not be answered: {type(error).__name__}: {error}")
    finally:
        patience.cancel()
    if answers:
        session.answers(answers)


def _base(session: Session, model: Any, tokenizer: Any, prompt: str) -> str:
    with model.disable_adapter():
        (said,) = answered(model, tokenizer, [prompt], until=session.hurry)
    return said
