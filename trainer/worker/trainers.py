"""TRL's trainers as a plan configures them: arguments, callbacks, optimizer, and complete checkpoints."""

import random
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import Dataset
from peft.optimizers import create_loraplus_optimizer
from torch import Generator, nn
from torch.utils.data import Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from specs import FinetunePlan
from trainer import files
from trainer.failure import DiskFullError, NotFiniteError
from trainer.model.build import kept_adapter_dtype
from trainer.runs.feasibility import require_feasible
from trainer.runs.session import Session
from trainer.worker import checkpoints, distributed, states
from trainer.worker.adalora import BudgetedTrainer, RankBudget
from trainer.worker.callbacks import EarlyStopping, Watch
from trainer.worker.ground import ground
from trainer.worker.rows import Rows

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files within the run's folder."""


class LengthOrder(LengthGroupedSampler):
    """Rows of similar length together, in an order that depends only on the seed and the epoch.

    A resumed run therefore sees the same rows; transformers' own order depends on the state of the random numbers.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=Generator().manual_seed(seed))
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch; accelerate calls this."""
        self.generator.manual_seed(self._seed + epoch)


class _CheckpointingTrainer(BudgetedTrainer):
    """A trainer whose checkpoints are complete or absent, and whose order of rows can be resumed."""

    def __init__(self, *, session: Session, **kwargs: Any) -> None:
        self._session = session
        super().__init__(**kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthOrder(batch_size, list(rows["length"]), self.args.data_seed)

    def _run_epoch(self, **kwargs: Any) -> None:
        """Train an epoch, unless the checkpoint is at the last step: transformers would take one more."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _load_callback_state(self) -> None:
        """Tell early stopping how long the run had not improved, unless it was made longer since."""
        planned = self.args.max_steps if self.args.max_steps > 0 else self.state.max_steps
        if self.state.max_steps == planned:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, EarlyStopping):
                    callback.restore(self.state.stateful_callbacks)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        session, step = self._session, self.state.global_step
        session.require_ours()
        if session.leads:
            _require_finite(model, step)
        shortage = distributed.from_leader(_shortage(session.folder, model) if session.leads else None)
        if shortage:
            # What was learned so far is still in memory: continue, and try again at the next checkpoint.
            session.event("warning", shortage)
            return
        kept = checkpoints.folder_of(session.folder, self.state.best_global_step or 0)
        with ExitStack() as writing:
            made = writing.enter_context(checkpoints.written(session.folder, keep=kept)) if session.leads else None
            self.args.output_dir = str(distributed.from_leader(made))
            super()._save_checkpoint(model, trial)
            distributed.meet()  # everything is written before the folder is moved
            if self.state.best_global_step == step:
                self._note_best(made)
        session.event("checkpoint", f"Saved the checkpoint of step {step}.")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if output_dir is not None:
            # A pickle of the arguments, which follow from the plan: nothing reads it.
            (Path(output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            states.save(self.optimizer.state_dict(), Path(output_dir) / checkpoints.OPTIMIZER)
            states.save(self.lr_scheduler.state_dict(), Path(output_dir) / checkpoints.SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.optimizer.load_state_dict(states.load(checkpoints.to_load(checkpoint, checkpoints.OPTIMIZER)))
            self.lr_scheduler.load_state_dict(states.load(checkpoints.to_load(checkpoint, checkpoints.SCHEDULER)))

    def _save_scaler(self, output_dir: str) -> None:
        if self.args.should_save and self.accelerator.scaler is not None:
            states.save(self.accelerator.scaler.state_dict(), Path(output_dir) / checkpoints.SCALER)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states.load(checkpoints.to_load(checkpoint, checkpoints.SCALER)))

    def _save_rng_state(self, output_dir: str) -> None:
        known = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.random.get_rng_state()}
        if self.args.device.type == "cuda":
            known["cuda"] = torch.cuda.random.get_rng_state(self.args.device)
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # a process may come here before the leading one made it
        states.save(known, checkpoints.random_numbers(Path(output_dir), self.args.process_index))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        known = states.load(checkpoints.random_numbers_to_load(checkpoint, self.args.process_index))
        random.setstate(known["python"])
        numpy.random.set_state(known["numpy"])
        torch.random.set_rng_state(known["cpu"])
        if "cuda" in known and self.args.device.type == "cuda":
            torch.cuda.random.set_rng_state(known["cuda"], self.args.device)

    def _note_best(self, made: Path | None) -> None:
        """Record the best checkpoint under the path that it is moved to."""
        step = self.state.global_step
        self.state.best_model_checkpoint = str(checkpoints.folder_of(self._session.folder, step))
        if made is not None:
            self.state.save_to_json(str(made / f"checkpoint-{step}" / checkpoints.STATE))


def _require_finite(model: nn.Module, step: int) -> None:
    """Refuse to keep weights that are no numbers: a run would be resumed from them for ever.

    Raises:
        NotFiniteError: If a trained weight is infinite or not a number.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(weight.isfinite().all()):
            way_out = "Retry with a lower learning_rate, or compute in bfloat16 or float32"
            raise NotFiniteError(f"weights after step {step}", "must be finite numbers", name, way_out)


def _shortage(folder: Path, model: nn.Module) -> str | None:
    """Return a sentence if the disk has no space for a checkpoint, or None."""
    try:
        files.require_space(folder, checkpoints.trained_bytes(model), "a checkpoint")
    except DiskFullError as error:
        return str(error)
    return None


class _PlanTrainer(_CheckpointingTrainer, SFTTrainer):
    """TRL's trainer for answers, with the loss of the plan."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss over the logits of all positions if the plan says so, otherwise TRL's chunked loss."""
        if self._session.plan.loss == "full":
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)
        return self.orthogonality() + super().compute_loss(model, inputs, *args, **kwargs)


class _PreferenceTrainer(_CheckpointingTrainer, DPOTrainer):
    """TRL's trainer for preference pairs; the reference is the base model, used with the adapter off."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # TRL copies a given adapter as the reference, since it may have been trained before: this one is new.
        self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leave the rows as they are: their tokens are made already, with one BOS and the template's own ends."""
        return dataset


def trainer_of(session: Session, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> Any:
    """Return the trainer of a run's plan for its rows.

    Raises:
        PlanError: If the plan cannot be trained on these rows.
    """
    plan = session.plan
    pairs = "chosen_ids" in rows.learned.column_names
    require_feasible(plan, ground(session.device, has_pairs=pairs))
    kind: Any = _PreferenceTrainer if pairs else _PlanTrainer
    arguments = training_arguments(
        plan, session.folder, device=session.device, pairs=pairs, evaluates=rows.held_out is not None
    )
    with kept_adapter_dtype(model):
        trainer = kind(
            session=session,
            model=model,
            args=arguments,
            train_dataset=rows.learned,
            eval_dataset=rows.held_out,
            processing_class=tokenizer,
            callbacks=callbacks(session),
        )
    if plan.loraplus_lr_ratio is not None:
        optimizer, values = trainer.get_optimizer_cls_and_kwargs(arguments, model)
        trainer.optimizer = create_loraplus_optimizer(
            model, optimizer_cls=optimizer, loraplus_lr_ratio=plan.loraplus_lr_ratio, **values
        )
    return trainer


def training_arguments(
    plan: FinetunePlan, folder: Path, *, device: str, pairs: bool = False, evaluates: bool = False
) -> SFTConfig | DPOConfig:
    """Return TRL's arguments for a plan, for answers or for preference pairs; all others keep TRL's defaults."""
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
    # Rows are already labelled and truncated: TRL has nothing to prepare but packing.
    own: dict[str, Any] = (
        {}
        if pairs
        else {
            "packing": plan.packing,
            "completion_only_loss": False,
            "dataset_kwargs": {"skip_prepare_dataset": not plan.packing},
            "train_sampling_strategy": "random" if plan.packing else plan.train_sampling_strategy,
        }
    )
    kind: Any = DPOConfig if pairs else SFTConfig
    return kind(
        **own,
        **{name: getattr(plan, name) for name in same_names},
        output_dir=str(folder),
        activation_checkpointing=plan.gradient_checkpointing,  # transformers 5 renamed it
        activation_checkpointing_kwargs={"use_reentrant": plan.use_reentrant},
        per_device_eval_batch_size=plan.per_device_train_batch_size,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=plan.save_steps,
        load_best_model_at_end=plan.load_best_model_at_end,
        metric_for_best_model="loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        data_seed=plan.seed,
        logging_nan_inf_filter=False,  # a loss that is not a number must be visible
        save_strategy="steps",
        report_to="none" if plan.report_to == "tensorboard" else plan.report_to,  # a callback of ours writes it
        disable_tqdm=True,
        use_cpu=device == "cpu",
        # Every trained weight is used in each step; a search for unused ones breaks under checkpointing.
        ddp_find_unused_parameters=False if plan.num_gpus > 1 else None,
        dataloader_pin_memory=device.startswith("cuda"),
    )


def callbacks(session: Session) -> list[TrainerCallback]:
    """Return the callbacks of a run's training."""
    plan = session.plan
    found: list[TrainerCallback] = [Watch(session)]
    if plan.early_stopping_patience is not None:
        found.append(EarlyStopping(session, plan.early_stopping_patience))
    if plan.method == "adalora":
        found.append(RankBudget(session.folder, session.plan))
    if session.leads:
        found.append(_Curves(SummaryWriter(session.folder / TENSORBOARD)))
    return found


class _Curves(TensorBoardCallback):
    """TensorBoard's files, a copy of what is in the store: no run ends because they cannot grow on a full disk."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Write a step's metrics."""
        with suppress(OSError):
            super().on_log(*args, **kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the file."""
        with suppress(OSError):
            super().on_train_end(*args, **kwargs)
