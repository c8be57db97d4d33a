"""Watches the training: records each step, ends a run that is asked to stop or whose loss is no longer finite."""

import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from specs import TASK_TYPES, FinetunePlan
from trainer.failure import NotFiniteError
from trainer.runs.contract import Metric
from trainer.runs.session import Session
from trainer.worker import distributed, memory
from trainer.worker.loop import card
from trainer.worker.loop.pace import Pace

_MEASURED_STEPS = 2
"""After so many steps of a worker its peak is recorded: the optimizer's states exist from the first one on."""


class Watch(TrainerCallback):
    """Records each step in the store, and ends the training on request or when the loss is no longer finite."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tokens = 0.0
        self._times: list[float] = []
        self._pace = Pace((session.run.estimate or {}).get("time") or {}, session.plan.save_steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers' signature
        """Record how many steps there are."""
        self._session.total_steps(state.max_steps)
        self._times.append(time.monotonic())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note when a step begins."""
        self._pace.begin(state.global_step, time.monotonic(), time.thread_time())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Measure the first steps; save and stop if somebody asked for it."""
        self._times.append(time.monotonic())
        self._pace.end(self._times[-1], time.thread_time())
        if len(self._times) == _MEASURED_STEPS + 1:
            self._session.measured(**memory.peaks(self._session.device), measured_steps=state.global_step)
        if distributed.any_of(self._session.stop.is_set()):
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Record how long each part took."""
        self._session.measured(time=self._pace.parts())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        """Store what transformers and TRL measured at this step.

        Raises:
            NotFiniteError: If the loss is infinite or not a number.
        """
        if not {"loss", "eval_loss"} & logs.keys():
            return
        self._session.metric(self._metric(state, logs))
        if measured := measures(self._session.plan, logs):
            self._session.measured(evaluation={"step": state.global_step, **measured})
            told = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
            self._session.event("evaluation", f"Step {state.global_step}: {told} on the held-out rows.")
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
        recent = self._times[-2:]
        seen = logs.get("num_tokens", logs.get("num_input_tokens_seen", self._tokens))
        tokens = seen - self._tokens if "loss" in logs else 0
        self._tokens += tokens
        last = recent[-1] - recent[0]
        return Metric(
            step=state.global_step,
            epoch=logs.get("epoch"),
            tokens_per_second=tokens / last if last and tokens > 0 else None,
            memory_bytes=memory.used_bytes(self._session.device),
            eta_seconds=self._pace.left(state.global_step, state.max_steps),
            at=time.time(),
            **card.readings(self._session.device),
            **finite,
        )


def measures(plan: FinetunePlan, logs: Mapping[str, Any]) -> dict[str, float]:
    """Return what an evaluation measured besides the loss; empty for other entries of the log."""
    names = [measure.name for measure in TASK_TYPES[plan.task_type].measures]
    return {name: float(logs[f"eval_{name}"]) for name in names if f"eval_{name}" in logs}


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
