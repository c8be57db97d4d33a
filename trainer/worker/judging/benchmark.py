"""A benchmark of lm-eval, where that is installed: both models answer the same of its questions."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import yaml

from specs import RunError
from specs.errors import clipped
from trainer.failure import StopRequestedError
from trainer.results import judgement
from trainer.results.chat import BASE, TUNED
from trainer.results.evaluation import BENCHMARK, OWN_TASK
from trainer.results.judgement import Compared


class Benchmark:
    """A task of lm-eval, or a group of them, and what each model scored question by question."""

    def __init__(self, name: str, *, limit: int, tokenizer: Any) -> None:
        """Find the task and fetch its questions, before any model is read.

        Args:
            name: As lm-eval names it, or the path of a task of one's own: its YAML file.
            limit: Questions of each task, at most: the first ones.
            tokenizer: The models'.

        Raises:
            RunError: If there is no such task, or its questions cannot be had.
        """
        self._limit, self._tokenizer = limit, tokenizer
        self._manager = importlib.import_module("lm_eval.tasks").TaskManager()
        wanted = own_task(Path(name)) if name.endswith(OWN_TASK) else name
        if wanted == name and name not in self._manager.all_tasks:
            way_out = "List the names with: python -m lm_eval ls tasks"
            raise RunError("--benchmark", "must be a task of lm-eval, or the YAML file of your own", name, way_out)
        try:
            self._tasks = [*self._manager.load([wanted])["tasks"].values()]
        except ConnectionError as error:
            way_out = "Connect to the network once, or leave it out"
            raise RunError("--benchmark", "needs the task's data from the Hub", name, way_out) from error
        except Exception as error:  # whatever a task's description or its data set fail with
            rule = f"must be a task whose questions can be read ({clipped(str(error), 120)})"
            raise RunError("--benchmark", rule, name, "Correct it, or leave it out") from error
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
                tasks=self._tasks,
                limit=self._limit,
                task_manager=self._manager,
                log_samples=True,
                bootstrap_iters=0,
            )["samples"]
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


def own_task(path: Path) -> dict[str, Any]:
    """Return what a task's own YAML file says, as plain values: it may name no function, which would be run.

    Raises:
        RunError: If it cannot be read, or is no such description.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        rule = f"must be a YAML file of plain values ({clipped(str(error), 120)})"
        raise RunError("--benchmark", rule, path.name, "Correct it") from error
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise RunError("--benchmark", "must name itself under task, beside its questions", path.name, "Correct it")
    if "include" in found:
        raise RunError("--benchmark", "must hold all of the task", "include", "Write out what it includes")
    return found


def _first_metric(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first metric that is a number for each question, if there is any."""
    named: Sequence[str] = samples[0]["metrics"] if samples else ()
    return [name for name in named if isinstance(samples[0][name], int | float)][:1]
