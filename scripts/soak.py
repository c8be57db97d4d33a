"""Kill workers at random moments, resume them, and compare every finished run with one that was never killed.

``python -m scripts.soak [--kills N] [--seed N]``

The workers are real and are ended by SIGKILL; the model is tiny, so that a kill takes seconds. A moment is a random
phase of the run and a random part of the time that the phase took undisturbed: else most kills would meet the imports.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs import launcher, processes
from trainer.runs.contract import Metric, Phase, Place, Run, State
from trainer.runs.export import RESULT
from trainer.runs.store import Store
from trainer.worker.loop.trainers import TENSORBOARD

KILLS = 100
MOST_KILLS = 4
"""Of one run, before it may finish."""
TOLERANCE = 1e-5
"""Of losses, relative, and of weights, absolute: sums in another order differ by about 1e-7 of their size."""
PATIENCE = 300.0
"""Seconds for one phase of a tiny run on a busy machine."""
LOOK_SECONDS = 0.005
"""How often to look for a phase; the shortest take some 20 ms."""

WORDS = ("one", "two", "three", "four", "five", "six")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEGUN = (Phase.WAITING, Phase.LOADING, Phase.TOKENIZING, Phase.TRAINING, Phase.SAVING, Phase.EVALUATING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A kind of run to kill."""

    plan: FinetunePlan
    pairs: bool = False
    """Whether it learns from pairs of answers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that was never killed, and how many seconds each of its phases took."""

    run: Run
    seconds: Mapping[Phase, float]


def recipes() -> dict[str, Recipe]:
    """Return the kinds of run: whatever a checkpoint must hold for the run to go on as if nothing had been."""
    same: dict[str, Any] = {
        "r": 4,
        "dtype": "float32",
        "per_device_train_batch_size": 2,
        "max_length": 64,
        "learning_rate": 1e-3,
        "lora_dropout": 0.1,
        "max_steps": 10,
        "save_steps": 3,
    }
    evaluated = {"eval_split": 0.25, "early_stopping_patience": 2, "load_best_model_at_end": True}
    accumulated = {"gradient_accumulation_steps": 2, "num_train_epochs": 2, "max_steps": -1, "save_steps": 2}
    budget = {"tinit": 2, "tfinal": 2, "deltaT": 1}
    grouped = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch"}
    plans: dict[str, tuple[str, dict[str, Any]]] = {
        "dropout": ("qlora", {}),
        "accumulation": ("lora", accumulated),
        "early stopping": ("lora", {**evaluated, "learning_rate": 0.3, "max_steps": 40, "save_steps": 1}),
        "groups by length": ("lora", grouped),
        "AdaLoRA": ("adalora", budget),
        "pairs": ("lora", {}),
        "two processes": ("lora", {"num_gpus": 2, "sharding": "ddp", "per_device_train_batch_size": 1}),
    }
    return {
        name: Recipe(plan=FinetunePlan.for_method(method, "tiny", **(same | changes)), pairs=name == "pairs")
        for name, (method, changes) in plans.items()
    }


def main(arguments: Sequence[str]) -> int:
    """Kill, resume and compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # workers inherit it; tiny models gain nothing from a second thread
    with tempfile.TemporaryDirectory(prefix="lorafit-soak-") as scratch:
        soak = Soak(Path(scratch), random.Random(given.seed))  # noqa: S311 - chooses moments, guards nothing
        try:
            wrong = list(soak.wrong(given.kills))
        finally:
            soak.end()
    print(f"seed {given.seed}: {soak.kills} kills, {soak.compared} runs compared, {len(wrong)} differ")
    return 1 if wrong else 0


class Soak:
    """A runs folder with a tiny model, and what was done to its runs so far."""

    def __init__(self, home: Path, moments: random.Random) -> None:
        self.kills = self.compared = 0
        self._random, self._home = moments, home
        self._store = Store(home / "runs")
        self._model = home / "tiny"
        save_tiny_model(self._model)

    def end(self) -> None:
        """Kill the workers that still run, if the soak was interrupted."""
        for run in self._store.runs():
            self._kill(run)

    def wrong(self, kills: int) -> Iterator[str]:
        """Yield what differs from an undisturbed run, until so many kills were made."""
        kinds = recipes()
        undisturbed = {name: self._undisturbed(name, recipe) for name, recipe in kinds.items()}
        for name in itertools.cycle(kinds):
            if self.kills >= kills:
                return
            run = self._killed(kinds[name], undisturbed[name], self._random.randint(1, MOST_KILLS))
            self.compared += 1
            found = list(self._differences(undisturbed[name].run, run))
            print(f"{self.kills:>4} kills  {name}: {'; '.join(found) or 'the same'}", flush=True)
            yield from found

    def _undisturbed(self, name: str, recipe: Recipe) -> Undisturbed:
        run = self._begun(recipe)
        while not run.is_over:
            time.sleep(0.1)
            run = self._store.run(run.id)
        if run.state is not State.FINISHED:
            raise SystemExit(f"{name}: {run.state} without any kill: {run.error}")
        # The first event is that the run was queued, the last that it ended.
        times = {event.text: event.at for event in self._store.events(run.id)}
        begins = [times["Preparing."], *(times[f"{phase.capitalize()}."] for phase in BEGUN[1:]), times["Finished."]]
        seconds = {
            phase: after - before for phase, (before, after) in zip(BEGUN, itertools.pairwise(begins), strict=True)
        }
        print(
            f"{name}: {run.step} steps, " + ", ".join(f"{phase} {took:.2f} s" for phase, took in seconds.items()),
            flush=True,
        )
        return Undisturbed(run=run, seconds=seconds)

    def _begun(self, recipe: Recipe) -> Run:
        data = DataSource(path=str(self._data(pairs=recipe.pairs)), prompts=("What comes after one?", "What is two?"))
        run = self._store.create(recipe.plan, data, place=Place(model_path=str(self._model)))
        launcher.launch(self._store, run.id)
        return self._store.run(run.id)

    def _killed(self, recipe: Recipe, undisturbed: Undisturbed, kills: int) -> Run:
        """Return a run after so many kills and its end."""
        run = self._begun(recipe)
        for _ in range(kills):
            phase = self._random.choice(BEGUN)
            part = self._random.random()
            run = self._waited(run, phase)
            if run.is_over:
                break
            time.sleep(part * undisturbed.seconds[phase])
            self._kill(run)
            run = self._waited(run, None)
            if run.state is State.FINISHED:
                break
            self._store.request_resume(run.id)
            launcher.launch(self._store, run.id)
        return self._waited(self._store.run(run.id), None)

    def _waited(self, run: Run, phase: Phase | None) -> Run:
        """Return the run once it has come to a phase, or is over."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            run = self._store.run(run.id)
            if run.is_over or (phase is not None and BEGUN.index(run.phase) >= BEGUN.index(phase)):
                return run
            time.sleep(LOOK_SECONDS if phase else 0.1)
        raise SystemExit(f"run {run.id}: {run.state}, {run.phase} after {PATIENCE:.0f} s")

    def _kill(self, run: Run) -> None:
        """Kill the worker of a run; one that has exited by itself in the meantime does not count."""
        process = self._store.run(run.id).process
        if process is not None and processes.lives(process):
            os.kill(int(process.split()[0]), signal.SIGKILL)
            self.kills += 1

    def _differences(self, expected: Run, run: Run) -> Iterator[str]:
        """Yield how a run differs from the undisturbed one."""
        if run.state is not State.FINISHED:
            yield f"{run.id} is {run.state}: {run.error}"
            return
        if (run.step, run.total_steps) != (expected.step, expected.total_steps):
            yield f"{run.id} ended at step {run.step}/{run.total_steps}, not {expected.step}/{expected.total_steps}"
        yield from _different_metrics(self._store.metrics(expected.id), self._store.metrics(run.id))
        if self._store.answers(run.id) != self._store.answers(expected.id):
            yield f"{run.id} gave other answers"
        folders = [self._store.run_folder(one.id) for one in (expected, run)]
        apart = _apart(*(folder / RESULT / "adapter_model.safetensors" for folder in folders))
        if not apart <= TOLERANCE:
            yield f"{run.id}: the adapter differs by {apart:.1e}"
        files = [{str(path.relative_to(folder)) for path in _kept(folder)} for folder in folders]
        if files[0] != files[1]:
            yield f"{run.id}: files {sorted(files[0] ^ files[1])}"

    def _data(self, *, pairs: bool) -> Path:
        path = self._home / f"{'pairs' if pairs else 'chat'}.jsonl"
        if not path.exists():
            rows = [_pair(*row) if pairs else _chat(*row) for row in itertools.product(WORDS, range(4))]
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return path


def _different_metrics(expected: Sequence[Metric], found: Sequence[Metric]) -> Iterator[str]:
    steps = [[metric.step for metric in metrics] for metrics in (expected, found)]
    if steps[0] != steps[1]:
        yield f"steps {steps[1]}, not {steps[0]}"
        return
    for one, other in zip(expected, found, strict=True):
        for name in ("loss", "eval_loss", "learning_rate"):
            values = getattr(one, name), getattr(other, name)
            if not _close(*values):
                yield f"{name} of step {one.step}: {values[1]}, not {values[0]}"


def _close(expected: float | None, found: float | None) -> bool:
    if expected is None or found is None:
        return expected is found
    return abs(expected - found) <= TOLERANCE * max(abs(expected), TOLERANCE)


def _apart(expected: Path, found: Path) -> float:
    """Return the largest difference between two files of tensors."""
    one, other = load_file(expected), load_file(found)
    if one.keys() != other.keys():
        return float("inf")
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def _kept(folder: Path) -> Iterator[Path]:
    """Yield the files of a run but TensorBoard's, which has one for each worker."""
    return (path for path in folder.rglob("*") if path.is_file() and TENSORBOARD not in path.parts)


def _chat(word: str, number: int) -> dict[str, Any]:
    said = (("user", f"What comes after {word}?"), ("assistant", f"In short: {word} and {'more ' * number}."))
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def _pair(word: str, number: int) -> dict[str, Any]:
    return {"prompt": f"What is {word}?", "chosen": f"It is {word} {number}.", "rejected": "No " * (number + 1)}


def save_tiny_model(folder: Path) -> None:
    """Write a random Llama of two layers, with a tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.pad_token, fast.bos_token, fast.eos_token = special
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
