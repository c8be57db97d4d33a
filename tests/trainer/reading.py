"""Reads exported folders with the tool's own loader: ``python -m tests.trainer.reading axolotl FOLDER...``.

Prints for each folder the rows as that tool would train on them, as JSON. A process of its own, for both tools patch
what they import.
"""

import json
import os
import sys
import types
from pathlib import Path

import yaml
from datasets import load_dataset
from transformers import AutoTokenizer


def llamafactory(folder):
    """Return the rows of LLaMA-Factory: tokens with labels, or those of a pair."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    # Neither is needed for text: one reads YAML files, the other sound.
    sys.modules.setdefault("omegaconf", types.SimpleNamespace(OmegaConf=None))
    sys.modules.setdefault("torchaudio", types.SimpleNamespace())
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: PLC0415
    from llamafactory.hparams import get_train_args  # noqa: PLC0415

    values = yaml.safe_load((folder / "llamafactory.yaml").read_text("utf-8"))
    model, data, training, tuning, _ = get_train_args(values | {"use_cpu": True, "output_dir": str(folder / "out")})
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)
    template = get_template_and_fix_tokenizer(tokenizer, data)
    stage = "rm" if tuning.stage == "dpo" else tuning.stage
    found = get_dataset(template, model, data, training, stage=stage, tokenizer=tokenizer, processor=None)
    return [dict(row) for row in found["train_dataset"]]


def axolotl(folder):
    """Return the rows of Axolotl."""
    from axolotl.utils.dict import DictDefault  # noqa: PLC0415

    values = yaml.safe_load((folder / "axolotl.yaml").read_text("utf-8"))
    values |= {"tokenizer_type": "PreTrainedTokenizerFast", "dataset_prepared_path": str(folder / "prepared")}
    config = DictDefault(values | {"dataset_num_proc": 1, "bf16": False, "output_dir": str(folder / "out")})
    tokenizer = AutoTokenizer.from_pretrained(config.base_model)
    if config.rl:
        return _axolotl_pairs(config, tokenizer)
    return _axolotl_answers(config, tokenizer)


def _axolotl_rows(entry):
    """Return the rows as its ``load_dataset_with_config`` does, whose module needs its whole stack."""
    return load_dataset(entry.ds_type, data_files=entry.path, split=entry.split)


def _axolotl_pairs(config, tokenizer):
    from axolotl.prompt_strategies.dpo import load  # noqa: PLC0415

    (entry,) = config.datasets
    transform = load(entry.type, config, dataset_idx=0)
    transform = transform[0] if isinstance(transform, tuple) else transform
    # It tokenizes pairs as TRL does.
    return [transform(dict(row), tokenizer=tokenizer) if "type" in entry else row for row in _axolotl_rows(entry)]


def _axolotl_answers(config, tokenizer):
    from axolotl.prompt_strategies import load  # noqa: PLC0415

    (entry,) = config.datasets
    strategy = load(entry.type, tokenizer, config, entry)
    found = []
    for row in _axolotl_rows(entry):
        batched = getattr(strategy, "supports_batched", False)
        made = strategy.tokenize_prompt({key: [value] if batched else value for key, value in row.items()})
        found += (
            [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)] if batched else [made]
        )
    return found


if __name__ == "__main__":
    read = {"axolotl": axolotl, "llamafactory": llamafactory}[sys.argv[1]]
    every = []
    for name in sys.argv[2:]:
        os.chdir(name)
        rows = read(Path(name))
        every.append([{key: value for key, value in row.items() if isinstance(value, str | list)} for row in rows])
    sys.stdout.write(json.dumps(every) + "\n")
