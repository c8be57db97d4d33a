"""Reads exported YAML with the tool that it is for: ``python -m tests.advisor.reading axolotl FILE...``.

Prints for each file what the tool understood, as JSON. A process of its own, for both tools patch what they import.
"""

import json
import os
import sys
import types
from pathlib import Path

import yaml

CARD = {"bf16": True, "fp8": False, "tf32": True, "n_node": 1, "compute_capability": "sm_80"}
"""The machine that Axolotl should assume: an A100."""


def axolotl(values):
    """Return what Axolotl's own schema reads from a configuration, including its checks against a card."""
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities  # noqa: PLC0415

    config = AxolotlConfigWCapabilities(
        **values, capabilities=CARD | {"n_gpu": 8}, env_capabilities={"torch_version": "2.13.0"}
    )
    return {
        "batch": config.micro_batch_size,
        "accumulation": config.gradient_accumulation_steps,
        "length": config.sequence_len,
        "rate": config.learning_rate,
        "r": config.lora_r,
        "bits": 4 if config.load_in_4bit else 8 if config.load_in_8bit else None,
    }


def llamafactory(values):
    """Return what LLaMA-Factory's own parser reads from a configuration, including its checks."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    # It reads YAML files with omegaconf, and is handed a dict here.
    sys.modules.setdefault("omegaconf", types.SimpleNamespace(OmegaConf=None))
    from llamafactory.hparams import get_train_args  # noqa: PLC0415

    # Without a card and without DeepSpeed's package, which are for the machine that trains.
    here = {name: value for name, value in values.items() if name != "deepspeed"} | {"use_cpu": True}
    model, data, training, tuning, _ = get_train_args(here)
    return {
        "batch": training.per_device_train_batch_size,
        "accumulation": training.gradient_accumulation_steps,
        "length": data.cutoff_len,
        "rate": training.learning_rate,
        "r": tuning.lora_rank if tuning.finetuning_type == "lora" else None,
        "bits": model.quantization_bit,
    }


TOOLS = {"axolotl": axolotl, "llamafactory": llamafactory}

if __name__ == "__main__":
    understood = [TOOLS[sys.argv[1]](yaml.safe_load(Path(name).read_text("utf-8"))) for name in sys.argv[2:]]
    sys.stdout.write(json.dumps(understood) + "\n")
