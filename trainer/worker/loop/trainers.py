"""TRL's trainers as a plan configures them: arguments, callbacks, optimizer, and what each task needs."""

import importlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from specs import METHODS, TASK_TYPES, FinetunePlan
from specs.adapters import INITS
from trainer.data.rendering import IGNORED
from trainer.model.build import kept_adapter_dtype
from trainer.model.checkpointing import checkpointing_kwargs
from trainer.results import checkpoints
from trainer.runs.feasibility import require_feasible
from trainer.runs.session import Session
from trainer.worker.ground import ground
from trainer.worker.loop import eva, sharding
from trainer.worker.loop.adalora import RankBudget
from trainer.worker.loop.callbacks import EarlyStopping, Watch
from trainer.worker.loop.checkpointing import CheckpointingTrainer
from trainer.worker.splitting import Rows

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files within the run's folder."""

_WITH_HEAD = {
    "remove_unused_columns": False,
    "include_num_input_tokens_seen": "non_padding",
}
"""What TRL's trainers set by themselves: the collator picks the columns it needs, and tokens are counted."""


_LABELS = {"QUESTION_ANS": ("start_positions", "end_positions")}
"""What the model takes as labels, where it is not called so."""


class _PlanTrainer(CheckpointingTrainer, SFTTrainer):
    """TRL's trainer for answers, with the loss of the plan."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss over the logits of all positions if the plan says so, otherwise TRL's chunked loss."""
        if self._session.plan.loss == "full":
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)
        return self.orthogonality() + super().compute_loss(model, inputs, *args, **kwargs)


class _PreferenceTrainer(CheckpointingTrainer, DPOTrainer):
    """TRL's trainer for preference pairs; the reference is the base model, used with the adapter off."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # TRL copies a given adapter as the reference, since it may have been trained before: this one is new.
        self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leave the rows as they are: their tokens are made already, with one BOS and the template's own ends."""
        return dataset


class _HeadTrainer(CheckpointingTrainer):
    """transformers' own trainer, for models whose loss is the mean of a batch.

    ``Trainer`` takes every model whose ``forward`` accepts further arguments for one that divides its loss by the
    labels of all accumulated batches, and divides no more. Those with a head accept them and take the mean all the
    same: the loss and its gradients would be as many times too large as batches are accumulated.

    Source:
        transformers 5.23, ``Trainer.__init__``, ``training_step`` and ``GenericForSequenceClassification.forward``.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - transformers' own signature
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the mean over the labels of all accumulated batches, as far as it comes from this one."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if num_items_in_batch is not None:
            processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * (processes * inputs["labels"].ne(IGNORED).sum() / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


class _TargetTrainer(_HeadTrainer, Seq2SeqTrainer):
    """transformers' trainer for an encoder and a decoder: an evaluation lets them write, as long as answers are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.eval_dataset is not None:
            self.args.generation_max_length = max(map(len, self.eval_dataset["labels"])) + 1


_OF_TASK = {
    "SEQ_CLS": _HeadTrainer,
    "TOKEN_CLS": _HeadTrainer,
    "QUESTION_ANS": _HeadTrainer,
    "SEQ_2_SEQ_LM": _TargetTrainer,
}
"""The trainers of tasks that TRL has none for."""
_LEARNING = {
    "SEQ_CLS": "classes",
    "TOKEN_CLS": "tags",
    "QUESTION_ANS": "passages",
    "SEQ_2_SEQ_LM": "targets",
    "FEATURE_EXTRACTION": "likeness",
}
"""The modules of ``trainer.worker.learning`` that know how they are trained."""


def trainer_of(session: Session, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> Any:
    """Return the trainer of a run's plan for its rows.

    Raises:
        PlanError: If the plan cannot be trained on these rows.
    """
    plan = session.plan
    pairs = "chosen_ids" in rows.learned.column_names
    require_feasible(plan, ground(session.device, has_pairs=pairs))
    kind: Any = _trainer_class(plan, pairs=pairs)
    arguments = training_arguments(
        plan, session.folder, device=session.device, pairs=pairs, evaluates=rows.held_out is not None
    )
    with kept_adapter_dtype(model):
        trainer = kind(
            session=session,
            numbers=rows.numbers,
            model=model,
            args=arguments,
            train_dataset=rows.learned,
            eval_dataset=rows.held_out,
            processing_class=tokenizer,
            callbacks=callbacks(session),
            **_of_task(plan, model, tokenizer, rows),
        )
    if _reads_rows(plan) and checkpoints.newest(session.folder) is None:
        eva.initialize(trainer)
    if plan.loraplus_lr_ratio is not None:
        optimizer, values = trainer.get_optimizer_cls_and_kwargs(arguments, model)
        trainer.optimizer = create_loraplus_optimizer(
            model, optimizer_cls=optimizer, loraplus_lr_ratio=plan.loraplus_lr_ratio, **values
        )
    return trainer


def _reads_rows(plan: FinetunePlan) -> bool:
    """Return whether the adapter begins as the data says."""
    return METHODS[plan.method].uses("init_lora_weights") and INITS[plan.init_lora_weights].reads_rows


def _trainer_class(plan: FinetunePlan, *, pairs: bool) -> Any:
    if TASK_TYPES[plan.task_type].embeds:
        return _of_embeddings().EmbeddingTrainer
    return _OF_TASK.get(plan.task_type) or (_PreferenceTrainer if pairs else _PlanTrainer)


def _of_embeddings() -> Any:
    """Return the module of embeddings, whose package takes seconds to import."""
    return importlib.import_module("trainer.worker.loop.embeddings")


def _of_task(plan: FinetunePlan, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> Mapping[str, Any]:
    """Return what the trainer of a task needs besides its rows."""
    if plan.task_type not in _LEARNING:
        return {}
    # scikit-learn takes a second to import, which other runs need not wait for.
    learning = importlib.import_module(f"trainer.worker.learning.{_LEARNING[plan.task_type]}")
    found: Mapping[str, Any] = learning.values(
        model, tokenizer, plan=plan, classes=rows.classes, held_out=rows.held_out
    )
    return found


def training_arguments(
    plan: FinetunePlan, folder: Path, *, device: str, pairs: bool = False, evaluates: bool = False
) -> TrainingArguments:
    """Return the arguments of a plan's trainer: for a head, answers or preference pairs.

    All that a plan does not say keeps the defaults of transformers and TRL.
    """
    same_names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
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
        "torch_empty_cache_steps",
        "seed",
        "bf16",
        "fp16",
    )
    # Rows are already labelled and truncated: TRL has nothing to prepare but packing.
    order = {"train_sampling_strategy": "random" if plan.packing else plan.train_sampling_strategy}
    kind: Any
    own: dict[str, Any]
    recomputes = plan.gradient_checkpointing
    if TASK_TYPES[plan.task_type].embeds:
        kind, own = _of_embeddings().Arguments, {"remove_unused_columns": False}
        recomputes = False  # the model does so already, and sentence-transformers' around it cannot be told to
    elif plan.task_type in _OF_TASK:
        labels = _LABELS.get(plan.task_type, ("labels",))
        kind = Seq2SeqTrainingArguments if plan.task_type == "SEQ_2_SEQ_LM" else TrainingArguments
        writes = {"predict_with_generate": True} if kind is Seq2SeqTrainingArguments else {}
        own = {**writes, **order, **_WITH_HEAD, "label_names": [*labels]}
    elif pairs:
        kind, own = DPOConfig, {"max_length": plan.max_length}
    else:
        kind, own = (
            SFTConfig,
            {
                **order,
                "max_length": plan.max_length,
                "packing": plan.packing,
                "completion_only_loss": False,
                "dataset_kwargs": {"skip_prepare_dataset": not plan.packing},
            },
        )
    return kind(
        **own,
        **{name: getattr(plan, name) for name in same_names},
        output_dir=str(folder),
        activation_checkpointing=recomputes,  # transformers 5 renamed it
        activation_checkpointing_kwargs=checkpointing_kwargs(plan, device=device),
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
        fsdp=True if plan.sharding == "fsdp" else None,
        fsdp_config=dict(sharding.ARGUMENTS) if plan.sharding == "fsdp" else None,
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
