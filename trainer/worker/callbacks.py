"""Watches the training: records each step, ends a run that is asked to stop or whose loss is no longer finite."""

import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from trainer.failure import NotFiniteError
from trainer.runs.contract import Metric
from trainer.runs.session import Session
from trainer.worker import distributed, memory

_ETA_STEPS = 20


class Watch(TrainerCallback):
    """Records each step in the store, and ends the training on request or when the loss is no longer finite."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tokens = 0.0
        self._times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Record how many steps there are."""
        self._session.total_steps(state.max_steps)
        self._times.append(time.monotonic())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Save and stop if somebody asked for it."""
        self._times.append(time.monotonic())
        if distributed.any_of(self._session.stop.is_set()):
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        """Store what transformers and TRL measured at this step.

        Raises:
            NotFiniteError: If the loss is infinite or not a number.
        """
        if not {"loss", "eval_loss"} & logs.keys():
            return
        self._session.metric(self._metric(state, logs))
        for name in ("loss", "eval_loss"):
            value = logs.get(name)
            if value is not None and not math.isfinite(value):
                way_out = "Retry with a lower learning_rate, or compute in bfloat16 or float32"
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


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, which also says why the run ended before its last step."""

    def __init__(self, session: Session, patience: int) -> None:
        super().__init__(early_stopping_patience=patience)
        self._session = session

    def restore(self, callbacks: Mapping[str, Any]) -> None:
        """Restore from a checkpoint's states of callbacks how often the loss had not improved."""
        known = callbacks.get(type(self).__name__)
        if known:
            self.early_stopping_patience_counter = int(known["attributes"]["early_stopping_patience_counter"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a run that had already stopped early when its worker was killed."""
        super().on_train_begin(args, state, control, **kwargs)
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Compare an evaluation with the best one; end the run when it has not improved for too long."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            best = f"{state.best_metric:.4f}, reached at step {state.best_global_step}"
            text = f"Stopped early at step {state.global_step}: the evaluation loss no longer fell below {best}."
            self._session.event("warning", text)
