"""sentence-transformers' trainer as a run uses it: batches without doubles, checkpoints of the adapter, measures.

Only runs of embeddings import it, since the package takes seconds to import.
"""

from typing import Any

from datasets import Dataset
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Dense

from trainer.worker.learning.likeness import Distinct, measures
from trainer.worker.loop.checkpointing import CheckpointingTrainer

Arguments = SentenceTransformerTrainingArguments


class EmbeddingTrainer(CheckpointingTrainer, SentenceTransformerTrainer):
    """Trains a ``SentenceTransformer`` whose model may have an adapter, in 4 bit too."""

    def __init__(self, **kwargs: Any) -> None:
        self._tokens = 0
        super().__init__(**kwargs)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: a run writes a card of its own, and asks nobody for what one could say."""

    def get_batch_sampler(self, dataset: Dataset, batch_size: int, drop_last: bool, **kwargs: Any) -> Distinct:  # noqa: FBT001 - sentence-transformers' signature
        """Return batches in which no text occurs twice."""
        return Distinct(dataset, batch_size=batch_size, drop_last=drop_last, seed=kwargs["seed"])

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        """Train on a batch, and count what is read of it."""
        self._tokens += sum(int(mask.sum()) for name, mask in inputs.items() if name.endswith("attention_mask"))
        return super().training_step(model, inputs, *args)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what is measured, and how many tokens were read so far."""
        super().log({**logs, "num_tokens": self._tokens}, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Return the loss on the held-out rows, and how well their texts are found."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        model: Any = self.accelerator.unwrap_model(self.model)
        model.eval()
        found = measures(model, self.data_collator, self.eval_dataset, batch_size=self.args.eval_batch_size)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - transformers' signature
        folder = output_dir or self.args.output_dir
        self.model.save_pretrained(folder, create_model_card=False)
        self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        """Load what is trained into this model: sentence-transformers would load a second one, unquantized."""
        inner = self.model[0].model
        if isinstance(inner, PeftModel):
            set_peft_model_state_dict(inner, load_peft_weights(resume_from_checkpoint, device=str(inner.device)))
            return
        kept = type(inner).from_pretrained(resume_from_checkpoint, dtype=inner.dtype, use_safetensors=True)
        inner.load_state_dict(kept.state_dict())
        for name, module in self.model.named_children():
            if isinstance(module, Dense):
                layer = Dense.load(resume_from_checkpoint, subfolder=f"{name}_Dense", local_files_only=True)
                module.load_state_dict(layer.state_dict())

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
