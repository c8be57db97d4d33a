"""One run, from its plan to its adapter: loads, tokenizes, trains, saves and asks the prompts again."""

import hashlib
import itertools
import math
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed
from transformers.integrations import TensorBoardCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from specs import MIB, DataError, FinetunePlan, PlanError, SpecError
from trainer import checkpoints, memory
from trainer.answers import answered
from trainer.contract import Answer, Metric, Phase, Run, State
from trainer.dataset import Example, Finding, examples
from trainer.export import RESULT
from trainer.failure import DiskFullError, NotFiniteError, StopRequestedError
from trainer.model import build, kept_adapter_dtype
from trainer.rendering import chat_text, labelled, rendered
from trainer.store import Store

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files within the run's folder."""

_DEFAULT_PROMPTS = 3
_ETA_STEPS = 20
_SPACE_SECONDS = 10.0
"""How often a full disk is looked at again before the result is saved: until then it lives in memory alone."""
_SMALL_FILES_BYTES = 32 * MIB
"""Tokenizer, states of generators and scheduler, configurations."""
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


@dataclass(frozen=True, slots=True)
class Session:
    """What every part of a run's work needs."""

    run: Run
    store: Store
    stop: Event
    """Set when the run shall save and end."""

    @property
    def plan(self) -> FinetunePlan:
        """The plan of the run."""
        return self.run.plan

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.store.run_folder(self.run.id)

    @property
    def device(self) -> str:
        """The torch device; the launcher shows the worker only its own card."""
        kind = self.run.place.device.partition(":")[0]
        return f"{kind}:0" if kind in {"cuda", "xpu"} else kind

    def enter(self, phase: Phase) -> None:
        """Note the phase, or leave if the run shall end before it begins to train.

        Raises:
            StopRequestedError: If somebody asked the run to end.
        """
        if self.stop.is_set() or self.store.stop_requested(self.run.id):
            raise StopRequestedError
        self.store.set_phase(self.run.id, phase)


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
    data, prompts = _data(session, tokenizer)
    checkpoints.require_space(session.folder, (checkpoints.KEPT + 2) * _checkpoint_bytes(model), "keeping the run")
    trainer = _trainer(session, model, tokenizer, data)
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


def _data(session: Session, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, tuple[str, ...]]:
    """Return the tokenized rows and the prompts to ask before and after; note what was skipped."""
    findings: list[str] = []
    prompts: list[str] = []
    source, plan = session.run.data, session.plan

    def tokenized() -> Iterator[dict[str, Any]]:
        for entry in examples(source):
            tokens = None if isinstance(entry, Finding) else _training_row(entry, tokenizer, plan)
            if isinstance(entry, Finding):
                findings.append(entry.sentence)
            elif tokens is None:
                findings.append(f"Row {entry.row}: its answer begins after max_length ({plan.max_length} tokens).")
            else:
                if len(prompts) < _DEFAULT_PROMPTS:
                    prompts.extend(turn.content for turn in entry.turns[:1] if turn.role == "user")
                yield {**tokens, "group": _group(entry)}

    session.store.add_details(session.run.id, data_sha256=data_fingerprint(session))
    rows = list(tokenized())
    session.store.add_details(session.run.id, rows=len(rows), skipped=len(findings), findings=findings[:100])
    if not rows:
        raise DataError(Path(source.path).name, "has no row to train on", None, findings[0] if findings else "")
    if findings:
        session.store.add_event(session.run.id, "warning", f"{len(findings):,} rows skipped, such as: {findings[0]}")
    return Dataset.from_list(rows), source.prompts or tuple(prompts)


def data_fingerprint(session: Session) -> str:
    """Return the SHA-256 of the data file.

    Raises:
        DataError: If it is no longer the file that the run began with: the same curve could not go on.
    """
    path = Path(session.run.data.path)
    if not path.is_file():
        raise DataError(str(path), "is no file", None, "Put it back, or start a new run with other data")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    known = session.run.details.get("data_sha256", found)
    if found != known:
        raise DataError(path.name, "has changed since the run began", None, "Start a new run with the changed data")
    return found


def _training_row(example: Example, tokenizer: Any, plan: FinetunePlan) -> dict[str, Any] | None:
    """Return a row as TRL takes it: tokens with labels, or a preference pair in words."""
    if example.chosen is not None:
        prompt = chat_text(example.turns, tokenizer, ask=True)
        end = tokenizer.eos_token or ""
        return {"prompt": prompt, "chosen": f"{example.chosen}{end}", "rejected": f"{example.rejected}{end}"}
    text = rendered(example, tokenizer)
    return labelled(text, tokenizer, max_length=plan.max_length, whole=not plan.completion_only_loss)


def _group(example: Example) -> str:
    """Return what examples of one question share, so that no question is both learned and evaluated."""
    asked = "\n".join(turn.content for turn in example.turns if turn.role != "assistant")
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def held_out_rows(groups: Sequence[str], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order that the seed decides, about a share of all rows."""
    if not share:
        return []
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    sizes, wanted = Counter(groups), max(1, round(share * len(groups)))
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]


class _WholeCheckpoints(Trainer):
    """A trainer whose checkpoints are whole or not there."""

    def __init__(self, *, session: Session, **kwargs: Any) -> None:
        self._session = session
        super().__init__(**kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, run = self._session.folder, self._session.run
        try:
            checkpoints.require_space(folder, _checkpoint_bytes(model), "a checkpoint")
        except DiskFullError as error:
            # What was learned so far is still in memory: go on, and try again at the next checkpoint.
            self._session.store.add_event(run.id, "warning", str(error))
            return
        with checkpoints.written(folder) as target:
            self.args.output_dir = str(target)
            super()._save_checkpoint(model, trial)
        self._session.store.add_event(run.id, "checkpoint", f"Checkpoint of step {self.state.global_step} saved.")


class _PlanTrainer(_WholeCheckpoints, SFTTrainer):
    """TRL's trainer on answers, with the loss that the plan names."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss over the logits of all positions where the plan asks for it, else TRL's chunked one."""
        if self._session.plan.loss == "full":
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)
        return super().compute_loss(model, inputs, *args, **kwargs)


class _PreferenceTrainer(_WholeCheckpoints, DPOTrainer):
    """TRL's trainer on preference pairs; the reference is the base model, heard with the adapter off."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # TRL copies an adapter that it is given, as it may have been trained before: this one is new.
        self.model.delete_adapter("ref")


def _trainer(session: Session, model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Dataset) -> Any:
    plan = session.plan
    pairs = "chosen" in data.column_names
    if pairs and (not isinstance(model, PeftModel) or plan.init_lora_weights == "pissa"):
        way_out = "Choose lora or qlora, and another init_lora_weights than pissa"
        raise PlanError("method", "must leave the base model as reference for preference pairs", plan.method, way_out)
    if plan.loss == "fused":
        raise PlanError("loss", "is full or chunked in a run: TRL 1.16 has no fused one", plan.loss, "Choose chunked")
    held_out = set(held_out_rows(data["group"], share=plan.eval_split, seed=plan.seed))
    data = data.remove_columns("group")
    learned = [row for row in range(len(data)) if row not in held_out]
    if not learned:
        raise DataError("eval_split", "leaves no row to train on", plan.eval_split, "Lower eval_split or add rows")
    kind: Any = _PreferenceTrainer if pairs else _PlanTrainer
    arguments = training_arguments(plan, session.folder, device=session.device, pairs=pairs)
    with kept_adapter_dtype(model):
        trainer = kind(
            session=session,
            model=model,
            args=arguments,
            train_dataset=data.select(learned),
            eval_dataset=data.select(sorted(held_out)) if held_out else None,
            processing_class=tokenizer,
            callbacks=[_Watch(session), TensorBoardCallback(SummaryWriter(session.folder / TENSORBOARD))],
        )
    if plan.loraplus_lr_ratio is not None:
        optimizer, values = trainer.get_optimizer_cls_and_kwargs(arguments, model)
        trainer.optimizer = create_loraplus_optimizer(
            model, optimizer_cls=optimizer, loraplus_lr_ratio=plan.loraplus_lr_ratio, **values
        )
    return trainer


def training_arguments(plan: FinetunePlan, folder: Path, *, device: str, pairs: bool = False) -> SFTConfig | DPOConfig:
    """Return TRL's arguments of a plan, for answers or for preference pairs; what is left out keeps TRL's default."""
    same_names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_length",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "logging_steps",
        "save_steps",
        "optim",
        "seed",
        "bf16",
        "fp16",
    )
    # The labels already say what counts.
    own: dict[str, Any] = {} if pairs else {"packing": plan.packing, "completion_only_loss": False}
    kind: Any = DPOConfig if pairs else SFTConfig
    return kind(
        **own,
        **{name: getattr(plan, name) for name in same_names},
        output_dir=str(folder),
        activation_checkpointing=plan.gradient_checkpointing,  # transformers 5 renamed it
        activation_checkpointing_kwargs={"use_reentrant": plan.use_reentrant},
        per_device_eval_batch_size=plan.per_device_train_batch_size,
        eval_strategy="steps" if plan.eval_split else "no",
        eval_steps=plan.save_steps,
        data_seed=plan.seed,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        save_strategy="steps",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device.startswith("cuda"),
    )


class _Watch(TrainerCallback):
    """Writes each step into the store, and ends the training when it is asked to or when the loss is lost."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tokens = 0.0
        self._times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Note how many steps there are."""
        self._session.store.set_total_steps(self._session.run.id, state.max_steps)
        self._times.append(time.monotonic())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Save and end if somebody asked for it."""
        self._times.append(time.monotonic())
        if self._session.stop.is_set():
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        """Store what transformers and TRL measured at this step.

        Raises:
            NotFiniteError: If the loss is infinite or not a number.
        """
        if not {"loss", "eval_loss"} & logs.keys():
            return
        self._session.store.add_metric(self._session.run.id, self._metric(state, logs))
        for name in ("loss", "eval_loss"):
            value = logs.get(name)
            if value is not None and not math.isfinite(value):
                way_out = "Lower learning_rate, or compute in bfloat16 or float32, and retry from the last checkpoint"
                raise NotFiniteError(f"{name} of step {state.global_step}", "must be a finite number", value, way_out)

    def _metric(self, state: Any, logs: dict[str, Any]) -> Metric:
        finite = {
            name: float(logs[name])
            for name in ("loss", "eval_loss", "learning_rate", "grad_norm")
            if isinstance(logs.get(name), int | float) and math.isfinite(logs[name])
        }
        recent = self._times[-_ETA_STEPS - 1 :]
        steps = len(recent) - 1
        seconds = (recent[-1] - recent[0]) / steps if steps > 0 else None
        tokens = logs.get("num_tokens", self._tokens) - self._tokens if "loss" in logs else 0
        self._tokens += tokens
        last = (recent[-1] - recent[-2]) if steps > 0 else 0
        return Metric(
            step=state.global_step,
            epoch=logs.get("epoch"),
            tokens_per_second=tokens / last if last and tokens > 0 else None,
            memory_bytes=memory.used_bytes(self._session.device),
            eta_seconds=seconds * (state.max_steps - state.global_step) if seconds else None,
            at=time.time(),
            **finite,
        )


def _checkpoint_bytes(model: nn.Module) -> int:
    """Return about what a checkpoint takes: trained weights, two 32-bit optimizer states for each, and small files."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(parameter.numel() * (parameter.element_size() + 8) for parameter in trained) + _SMALL_FILES_BYTES


def _save(session: Session, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the adapter (or the model) and its tokenizer, whole or not at all; wait for space on a full disk."""
    while True:
        try:
            checkpoints.require_space(session.folder, _checkpoint_bytes(model), "saving the result")
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
