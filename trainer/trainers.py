"""TRL's trainers as a plan sets them up: arguments, callbacks, optimizer, and checkpoints that are whole."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from specs import DataError, FinetunePlan, PlanError
from trainer import checkpoints
from trainer.failure import DiskFullError
from trainer.material import held_out_rows
from trainer.model import kept_adapter_dtype
from trainer.session import Session
from trainer.watch import Watch

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files within the run's folder."""


class _WholeCheckpoints(Trainer):
    """A trainer whose checkpoints are whole or not there."""

    def __init__(self, *, session: Session, **kwargs: Any) -> None:
        self._session = session
        super().__init__(**kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, run = self._session.folder, self._session.run
        try:
            checkpoints.require_space(folder, checkpoints.trained_bytes(model), "a checkpoint")
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


def trainer_of(session: Session, model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Dataset) -> Any:
    """Return the trainer of a run's plan for its rows.

    Raises:
        PlanError: If the plan cannot be trained on these rows.
        DataError: If no row is left to learn from.
    """
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
            callbacks=callbacks(session),
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


def callbacks(session: Session) -> list[TrainerCallback]:
    """Return what looks at the training as it goes on."""
    return [Watch(session), TensorBoardCallback(SummaryWriter(session.folder / TENSORBOARD))]
