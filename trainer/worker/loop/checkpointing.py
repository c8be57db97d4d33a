"""A trainer whose checkpoints are whole and hold no pickle, and whose order of rows comes from the seed alone."""

import hashlib
import random
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import Dataset
from torch import Generator, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler

from trainer import files
from trainer.failure import DiskFullError, NotFiniteError
from trainer.results import checkpoints
from trainer.runs.diagnosis import WINDOW
from trainer.runs.session import Session
from trainer.runs.storage import order
from trainer.worker import distributed
from trainer.worker.loop import states
from trainer.worker.loop.adalora import BudgetedTrainer
from trainer.worker.loop.callbacks import EarlyStopping
from trainer.worker.loop.sharding import ShardingTrainer, own_part

CARD = "README.md"


def packed_numbers(packed: Dataset, rows: Dataset, numbers: Sequence[int]) -> list[Sequence[int]]:
    """Return for each packed row the numbers of those that it is made of, which are found by their tokens.

    TRL packs the rows in an order of its own, and leaves out which is which. Rows that are the same count once each.
    """
    waiting: defaultdict[bytes, deque[int]] = defaultdict(deque)
    for number, row in zip(numbers, rows.with_format("numpy", columns=["input_ids"]), strict=True):
        waiting[_digest(row["input_ids"])].append(number)
    found: list[Sequence[int]] = []
    for row in packed.with_format("numpy", columns=["input_ids", "seq_lengths"]):
        parts = numpy.split(row["input_ids"], numpy.cumsum(row["seq_lengths"])[:-1])
        held = (waiting[_digest(part)] for part in parts)
        found.append(tuple(queue.popleft() for queue in held if queue))
    return found


def _digest(tokens: Any) -> bytes:
    return hashlib.blake2b(tokens.astype(numpy.int64).tobytes(), digest_size=16).digest()


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


class CheckpointingTrainer(ShardingTrainer, BudgetedTrainer):
    """A trainer whose checkpoints are complete or absent, and whose order of rows can be resumed."""

    def __init__(self, *, session: Session, numbers: Sequence[int] = (), **kwargs: Any) -> None:
        """Take the numbers in the file of the rows that are learned."""
        self._session = session
        super().__init__(**kwargs)
        self._numbers: Sequence[Sequence[int]] = [(number,) for number in numbers]
        if numbers and "seq_lengths" in self.train_dataset.column_names:
            self._numbers = packed_numbers(self.train_dataset, kwargs["train_dataset"], numbers)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthOrder(batch_size, list(rows["length"]), self.args.data_seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """Return none: rows are evaluated in their own order, in which their measures know them."""
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 else super()._get_eval_sampler(eval_dataset)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002 - transformers' own signature
        """Return none: nobody reads them, and counting walks over all modules, 1 % of a step of the demo on a CPU."""
        return 0

    def _run_epoch(self, **kwargs: Any) -> None:
        """Train an epoch, unless the checkpoint is at the last step: transformers would take one more."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        if self._numbers and self._session.leads:
            with suppress(OSError):  # a full disk ends no run for this
                self._note_order(kwargs["train_dataloader"], kwargs["epoch"], kwargs["num_update_steps_per_epoch"])
        super()._run_epoch(**kwargs)

    def _note_order(self, loader: Any, epoch: int, num_steps: int) -> None:
        """Write which rows each step of an epoch is made of: as the loader's own sampler gives them."""
        # One of several processes reads a part of each step: what it divides has all.
        sampler = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)
        for one in (loader, sampler):
            if hasattr(one, "set_epoch"):
                one.set_epoch(epoch)  # transformers does so again, which begins the order anew
        batches = list(sampler)
        together = self.args.gradient_accumulation_steps * self.args.world_size
        steps = [
            [
                number
                for batch in batches[first : first + together]
                for place in batch
                for number in self._numbers[place]
            ]
            for first in range(0, len(batches), together)
        ]
        kept = WINDOW * self.args.logging_steps
        order.note(self._session.folder, epoch * num_steps + 1, steps, kept_steps=int(kept))

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
        if session.leads or session.plan.sharding == "fsdp":  # each then holds a part
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
            # PEFT's form of a card, which says nothing but where the model lies; the result has a card of the run.
            (Path(output_dir) / CARD).unlink(missing_ok=True)

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
        path = checkpoints.random_numbers_to_load(checkpoint, self.args.process_index)
        if self.args.process_index and not path.exists():
            return  # a process that was not there before goes on from the run's seed
        known = states.load(path)
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
        if weight.requires_grad and not bool(own_part(weight).isfinite().all()):
            way_out = "Retry with a lower learning_rate, or compute in bfloat16 or float32"
            raise NotFiniteError(f"weights after step {step}", "must be finite numbers", name, way_out)


def _shortage(folder: Path, model: nn.Module) -> str | None:
    """Return a sentence if the disk has no space for a checkpoint, or None."""
    try:
        files.require_space(folder, checkpoints.trained_bytes(model), "a checkpoint")
    except DiskFullError as error:
        return str(error)
    return None
