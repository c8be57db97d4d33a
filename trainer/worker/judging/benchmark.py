"""A benchmark of lm-eval, where that is installed: both models answer the same of its questions."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from specs import RunError
from trainer.failure import StopRequestedError
from trainer.results import judgement
from trainer.results.chat import BASE, TUNED
from trainer.results.evaluation import BENCHMARK
from trainer.results.judgement import Compared


class Benchmark:
    """A task of lm-eval, or a group of them, and what each model scored question by question."""

    def __init__(self, name: str, *, limit: int, tokenizer: Any, own: Path | None = None) -> None:
        """Find the task.

        Args:
            name: As lm-eval names it.
            limit: Questions of each task, at most: the first ones.
            tokenizer: The models'.
            own: A folder with tasks that lm-eval does not bring.

        Raises:
            RunError: If there is none of this name.
        """
        self._name, self._limit, self._tokenizer = name, limit, tokenizer
        self._tasks = importlib.import_module("lm_eval.tasks").TaskManager(include_path=str(own) if own else None)
        if name not in self._tasks.all_tasks:
            way_out = "List the names with: python -m lm_eval ls tasks"
            raise RunError("--benchmark", "must be a task of lm-eval", name, way_out)
        self._samples: dict[str, Mapping[str, Sequence[Mapping[str, Any]]]] = {}

    def read(self, voice: str, model: Any, stop: Event) -> None:
        """Let a model answer the questions.

        Raises:
            StopRequestedError: If the evaluation is to end.
        """

        def watch(*_: Any) -> None:
            if stop.is_set():
                raise StopRequestedError

        wrapper = importlib.import_module("lm_eval.models.huggingface").HFLM
        watching = model.register_forward_pre_hook(watch)
        try:
            self._samples[voice] = importlib.import_module("lm_eval").simple_evaluate(
                model=wrapper(pretrained=model, tokenizer=self._tokenizer, batch_size=1),
                tasks=[self._name],
                limit=self._limit,
                task_manager=self._tasks,
                log_samples=True,
                bootstrap_iters=0,
            )["samples"]
        except ConnectionError as error:
            way_out = "Connect to the network once, or leave it out"
            raise RunError("--benchmark", "needs the task's data from the Hub", self._name, way_out) from error
        finally:
            watching.remove()

    def compared(self) -> list[Compared]:
        """Return for each task by how much its first metric differs."""
        return [
            judgement.scores(
                BENCHMARK,
                f"{task}, {metric}",
                *([float(sample[metric]) for sample in self._samples[voice][task]] for voice in (BASE, TUNED)),
            )
            for task, samples in self._samples[TUNED].items()
            for metric in _first_metric(samples)
        ]


def _first_metric(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first metric that is a number for each question, if there is any."""
    named: Sequence[str] = samples[0]["metrics"] if samples else ()
    return [name for name in named if isinstance(samples[0][name], int | float)][:1]
