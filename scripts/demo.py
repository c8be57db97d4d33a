"""The whole workflow in the terminal: advice with reasons, predicted memory, 30 real steps, measured peak."""

import dataclasses
import json
import sys
import textwrap
from pathlib import Path

from advisor import Situation, advise
from advisor.advise import Recommendation
from catalog import machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from specs import FinetunePlan, GpuSpec, LorafitError, ModelSpec, gib, paths
from trainer.commands.showing import watch
from trainer.data.doctor import examined
from trainer.data.source import DataSource
from trainer.data.tokenizer import FolderTokenizer
from trainer.runs import launcher
from trainer.runs.contract import Place, Run
from trainer.runs.export import RESULT
from trainer.runs.store import Store

STEPS = 30

# A model of 135M parameters learns a style in 30 steps only at a higher rate than large models can take. Our own runs
# of QLoRA on the demo data, CPU, torch 2.13.0, 2026-11-22: at 2e-4 the loss stays within its noise; at 1e-3 it falls
# from 3.5 to 2.2 in 60 steps, and the answers adopt the style.
PINS = {"method": "qlora", "learning_rate": 1e-3, "per_device_train_batch_size": 4, "lora_dropout": 0.0}


def main() -> int:
    """Show advice, memory and training of the demo model; return the exit status."""
    try:
        model, device = models.find(str(paths.demo_model())), machine.devices()[0]
        result = recommendation(model, device.gpu)
        plan = dataclasses.replace(result.plan, max_steps=STEPS)
        print_advice(result)
        estimate = pricing.price(model, plan, device.gpu)
        print_memory(estimate, device.gpu)
        return train(plan, estimate, device.torch_name)
    except LorafitError as error:
        print(error, file=sys.stderr)
        return 2


def recommendation(model: ModelSpec, gpu: GpuSpec) -> Recommendation:
    """Return the plan for the demo model and data on a device."""
    report = examined(DataSource(path=str(paths.demo_data())), FolderTokenizer(paths.demo_model()))
    situation = Situation(
        model=model,
        gpu=gpu,
        dataset_rows=report.rows,
        dataset_tokens=(report.quantile(0.5), report.quantile(0.95), report.quantile(1)),
        model_name_or_path=paths.demo_model().name,
        task="style",
        pins=PINS,
    )

    def price(plan: FinetunePlan) -> MemoryEstimate:
        return pricing.price(model, plan, gpu)

    return advise(situation, price=price)


def print_advice(result: Recommendation) -> None:
    """Print each setting with its reason."""
    print("Plan")
    for advice in result.advice:
        reason = textwrap.shorten(advice.reason, 110, placeholder=" …")
        print(f"  {advice.field:<30} {advice.value!s:<18} {reason}")


def print_memory(estimate: MemoryEstimate, gpu: GpuSpec) -> None:
    """Print the memory that the run will take, by component."""
    print(f"\nMemory on {gpu.name}: {gib(estimate.used_bytes)} of {gib(estimate.capacity_bytes)}, {estimate.verdict}")
    for name, size in estimate.components.items():
        if size:
            print(f"  {name.replace('_', ' '):<30} {gib(size):>10}")


def train(plan: FinetunePlan, estimate: MemoryEstimate, device: str) -> int:
    """Train the plan on the demo data; print the first and last loss, the peaks and the adapter's folder."""
    prompts = tuple(json.loads(Path(paths.assets() / "demo_prompts.json").read_text(encoding="utf-8")))
    store = Store(paths.runs())
    place = Place(device=device, model_path=str(paths.demo_model()))
    data = DataSource(path=str(paths.demo_data()), prompts=prompts)
    run: Run = store.create(plan, data, estimate.to_dict(), place=place)
    print(f"\nTraining {STEPS} steps; run `make run` to watch in the browser")
    launcher.launch(store, run.id)
    status = watch(store, run.id)
    print(f"  adapter: {store.run_folder(run.id) / RESULT}")
    return status


if __name__ == "__main__":
    sys.exit(main())
