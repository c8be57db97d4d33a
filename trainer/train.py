"""One run, from its plan to its adapter: loads, tokenizes, trains, saves and asks the prompts again."""

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from specs import PlanError, SpecError
from trainer import checkpoints, memory
from trainer.answers import answered
from trainer.contract import Answer, Phase, State
from trainer.export import RESULT
from trainer.failure import DiskFullError, StopRequestedError
from trainer.material import tokenized_rows
from trainer.model import build
from trainer.session import Session
from trainer.trainers import trainer_of

_SPACE_SECONDS = 10.0
"""How often a full disk is looked at again before the result is saved: until then it lives in memory alone."""
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


def train(session: Session) -> State:
    """Carry out a run; return whether it finished or was stopped."""
    run, store, plan = session.run, session.store, session.plan
    if plan.num_gpus > 1:
        raise PlanError("num_gpus", "of a run started here is 1", plan.num_gpus, "Set it to 1 and sharding to none")
    store.add_details(run.id, libraries={name: version(name) for name in _LIBRARIES}, python=platform.python_version())
    store.add_measured(run.id, baseline_bytes=memory.used_bytes(session.device))
    set_seed(plan.seed)
    session.enter(Phase.LOADING)
    tokenizer = _tokenizer(run.model)
    model = build(plan, run.model, device=session.device)
    session.enter(Phase.TOKENIZING)
    data, prompts = tokenized_rows(session, tokenizer)
    checkpoints.require_space(
        session.folder, (checkpoints.KEPT + 2) * checkpoints.trained_bytes(model), "keeping the run"
    )
    trainer = trainer_of(session, model, tokenizer, data)
    # An adapter that changes biases or, as PiSSA, weights cannot be switched off later to hear the base model again.
    separable = isinstance(model, PeftModel) and plan.bias == "none" and plan.init_lora_weights != "pissa"
    before = None if separable else answered(model, tokenizer, prompts)
    state = _train_steps(session, trainer)
    store.set_phase(run.id, Phase.SAVING)
    _save(session, trainer.model, tokenizer)
    if state is State.FINISHED:
        store.set_phase(run.id, Phase.EVALUATING)
        store.set_answers(run.id, _answers(trainer.model, tokenizer, prompts, before))
    return state


def _train_steps(session: Session, trainer: Any) -> State:
    """Train from the newest checkpoint, or from the start; return whether all steps were done."""
    session.enter(Phase.TRAINING)
    if not session.store.start_training(session.run.id):
        raise StopRequestedError
    resumed = checkpoints.newest(session.folder)
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    finally:
        # Also of a run that ran out of memory: the peak tells by how much.
        session.store.add_measured(session.run.id, **memory.peaks(session.device))
    stopped = session.stop.is_set() and trainer.state.global_step < trainer.state.max_steps
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
    """Write the adapter (or the model) and its tokenizer, whole or not at all; wait for space on a full disk."""
    while True:
        try:
            checkpoints.require_space(session.folder, checkpoints.trained_bytes(model), "saving the result")
            break
        except DiskFullError as error:
            session.store.add_event(session.run.id, "warning", str(error))
            time.sleep(_SPACE_SECONDS)
    with checkpoints.replaced(session.folder / RESULT) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], before: Sequence[str] | None
) -> list[Answer]:
    tuned = answered(model, tokenizer, prompts)
    if before is None:
        with model.disable_adapter():
            before = answered(model, tokenizer, prompts)
    return [Answer(prompt=p, base=b, tuned=t) for p, b, t in zip(prompts, before, tuned, strict=True)]
