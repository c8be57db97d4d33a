"""Compare a run's tokens per second with TRL's own command line: same model, data set and memory budget.

``python -m scripts.against_trl [--steps N] [--device cpu|cuda:0] [--model FOLDER] [--data FILE]``

``trl sft --use_peft`` runs first with all its defaults; the memory it uses is the budget for our plan. Both train the
same number of rows; the first step of each is warm-up. On a busy machine, tokens per second of CPU time say more than
tokens per second.
"""

import argparse
import ast
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pynvml

from advisor import Situation, advise
from catalog import machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from specs import FinetunePlan, LorafitError, RunError, gib, paths
from trainer.data.doctor import examined
from trainer.data.source import DataSource
from trainer.data.tokenizer import FolderTokenizer
from trainer.runs import launcher
from trainer.runs.contract import Place, State
from trainer.runs.store import Store

TRL_BATCH = 8
"""transformers 5.23, ``TrainingArguments.per_device_train_batch_size``, which TRL 1.16 keeps."""
_SAMPLE_SECONDS = 0.2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one of the two trainers."""

    name: str
    settings: str
    tokens: float
    """Tokens trained after the first step, without padding."""
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Meter:
    """Samples a process and its children: CPU time and memory, resident on a CPU or else on the card."""

    def __init__(self, process: int, device: str) -> None:
        self.peak_bytes = 0
        self._cpu: list[tuple[float, float]] = []
        self._process, self._card = psutil.Process(process), int(device.partition(":")[2] or -1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()

    def cpu_seconds(self, begun: float, ended: float) -> float:
        """Return the CPU time between two points in time."""
        inside = [spent for at, spent in self._cpu if begun <= at <= ended]
        return inside[-1] - inside[0] if inside else 0.0

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            try:
                self._sample([self._process, *self._process.children(recursive=True)])
            except psutil.NoSuchProcess:
                continue

    def _sample(self, family: Sequence[psutil.Process]) -> None:
        times = [process.cpu_times() for process in family]
        self._cpu.append((time.time(), sum(spent.user + spent.system for spent in times)))
        # Of a launcher and its worker, only the worker trains.
        resident = max(process.memory_info().rss for process in family)
        self.peak_bytes = max(self.peak_bytes, resident if self._card < 0 else _card_bytes(self._card))


def _card_bytes(index: int) -> int:
    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)


def main(arguments: Sequence[str]) -> int:
    """Time both trainers and print a table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.against_trl", description=__doc__)
    first = machine.devices()[0]
    parser.add_argument("--steps", type=int, default=4, help="steps for TRL's command line")
    parser.add_argument("--device", default="cpu" if first.gpu.is_cpu else f"cuda:{first.index}")
    parser.add_argument("--model", type=Path, default=paths.demo_model())
    parser.add_argument("--data", type=Path, default=paths.demo_data())
    args = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trl = timed_trl(args, Path(folder))
            ours = timed_run(args, Path(folder), budget=trl.peak_bytes)
    except LorafitError as error:
        print(error, file=sys.stderr)
        return 2
    print_table([trl, ours])
    return 0


def timed_trl(args: argparse.Namespace, folder: Path) -> Result:
    """Train with ``trl sft --use_peft``, setting only the device, the number of steps, and logging of each step.

    Raises:
        RunError: If TRL ends with an error.
    """
    configuration = folder / "trl.yaml"
    configuration.write_text(json.dumps({"datasets": [{"path": "json", "data_files": str(args.data.resolve())}]}))
    command = [
        *(str(Path(sys.executable).with_name("trl")), "sft", "--config", str(configuration)),
        *("--model_name_or_path", str(args.model), "--use_peft", "--output_dir", str(folder / "trl")),
        *("--max_steps", str(args.steps), "--logging_steps", "1", "--report_to", "none", "--save_strategy", "no"),
        *(["--use_cpu", "true"] if args.device == "cpu" else []),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    if args.device != "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = args.device.partition(":")[2]
    with (folder / "trl.log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder, text=True, bufsize=1
        )
        meter = Meter(process.pid, args.device)
        steps = [(time.time(), step["num_tokens"]) for step in map(_logged, process.stdout or ()) if step]
        status = process.wait()
        meter.end()
        log.seek(0)
        if status or len(steps) < 2:
            raise RunError("trl sft", "must train at least two steps", status, log.read()[-2000:])
    (begun, before), (ended, after) = steps[0], steps[-1]
    settings = f"LoRA r 16, batch {TRL_BATCH}, max_length 1024, bf16, checkpointing"
    return Result(
        name="trl sft",
        settings=settings,
        tokens=after - before,
        seconds=ended - begun,
        cpu_seconds=meter.cpu_seconds(begun, ended),
        peak_bytes=meter.peak_bytes,
    )


def _logged(line: str) -> dict[str, float] | None:
    """Return what TRL logs about a step, or None for any other line."""
    if not line.lstrip().startswith("{'loss'"):
        return None
    return {name: float(value) for name, value in ast.literal_eval(line.strip()).items()}


def timed_run(args: argparse.Namespace, folder: Path, *, budget: int) -> Result:
    """Train the plan that the advisor finds for the memory budget, as a run of its own.

    Raises:
        RunError: If the run does not finish.
    """
    plan = planned(args, budget)
    batch = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
    plan = dataclasses.replace(plan, max_steps=max(2, args.steps * TRL_BATCH // batch))
    store = Store(folder / "runs")
    place = Place(device=args.device, model_path=str(args.model))
    run = store.create(plan, DataSource(path=str(args.data.resolve()), prompts=("Hello",)), place=place)
    launcher.launch(store, run.id)
    meter = Meter(os.getpid(), args.device)
    while not (run := store.run(run.id)).is_over:
        time.sleep(_SAMPLE_SECONDS)
    meter.end()
    if run.state is not State.FINISHED:
        raise RunError("run", "must finish", str(run.state), run.error or "")
    metrics = store.metrics(run.id)
    times = [metric.at or 0.0 for metric in metrics]
    seconds = [after - before for before, after in itertools.pairwise(times)]
    tokens = [(one.tokens_per_second or 0) * took for one, took in zip(metrics[1:], seconds, strict=True)]
    settings = (
        f"{plan.method} r {plan.r}, batch {plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}, "
        f"max_length {plan.max_length}, {plan.compute_dtype}"
        f"{', checkpointing' if plan.gradient_checkpointing else ''}{', packing' if plan.packing else ''}"
    )
    return Result(
        name="LoRAFit",
        settings=settings,
        tokens=sum(tokens),
        seconds=sum(seconds),
        cpu_seconds=meter.cpu_seconds(times[0], times[-1]),
        peak_bytes=int(run.measured["peak_used_bytes"]),
    )


def planned(args: argparse.Namespace, budget: int) -> FinetunePlan:
    """Return the fastest LoRA plan that the advisor finds within the budget, with TRL's rank for equal work."""
    model = models.find(str(args.model))
    device = next(
        (entry for entry in machine.devices() if not entry.gpu.is_cpu and f"cuda:{entry.index}" == args.device),
        None,
    )
    found = device.gpu if device else machine.processor().gpu
    gpu = dataclasses.replace(found, memory_bytes=budget, usable_bytes=budget)
    report = examined(DataSource(path=str(args.data)), FolderTokenizer(args.model))
    situation = Situation(
        model=model,
        gpu=gpu,
        dataset_rows=report.rows,
        dataset_tokens=(report.quantile(0.5), report.quantile(0.95), report.quantile(1)),
        model_name_or_path=str(args.model),
        goal="speed",
        pins={"method": "lora", "r": 16, "logging_steps": 1, "eval_split": 0.0, "save_steps": 1_000_000},
    )

    def price(plan: FinetunePlan) -> MemoryEstimate:
        return pricing.price(model, plan, gpu)

    return advise(situation, price=price).plan


def print_table(results: Sequence[Result]) -> None:
    """Print one line per trainer."""
    width = max(len(result.settings) for result in results)
    heads = f"{'tokens':>8}  {'seconds':>8}  {'tokens/s':>9}  {'per CPU-s':>9}  {'peak':>9}"
    print(f"{'':<8}  {'settings':<{width}}  {heads}")
    for result in results:
        by_cpu = result.tokens / result.cpu_seconds if result.cpu_seconds else 0.0
        rates = f"{result.tokens / result.seconds:>9.1f}  {by_cpu:>9.1f}  {gib(result.peak_bytes):>9}"
        figures = f"{result.tokens:>8,.0f}  {result.seconds:>8.1f}  {rates}"
        print(f"{result.name:<8}  {result.settings:<{width}}  {figures}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
