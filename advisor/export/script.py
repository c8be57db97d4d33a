"""The plan as a Python script that needs only transformers, peft and TRL."""

import re

from advisor.export import adapters, snippet
from advisor.export.job import Job, call_text, launch_commands, literal

_HEAD = '''"""Fine-tunes {model} with {method}, as planned by LoRAFit.

Needs: {packages}
Data: one example per line or row, as chat messages, prompt and completion, instruction and output, or text.
Run: {command}
     with --data FILE [--model FOLDER_OR_HUB_ID] [--output FOLDER] [--max-steps N]
"""

import argparse
import json
import os

import torch
from datasets import load_dataset
{imports}
from transformers import AutoModelForCausalLM, AutoTokenizer, {transformers}set_seed
from trl import SFTConfig, SFTTrainer

MAX_LENGTH = {max_length}
LEARN_PROMPTS = {learn_prompts}
'''

_DATA = '''

def rows(path):
    """Read a data set from a file, or from the Hub by its id."""
    kinds = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet", "txt": "text"}
    kind = kinds.get(path.rpartition(".")[2].lower())
    if kind is None:
        return load_dataset(path, split="train")
    return load_dataset(kind, data_files=path, split="train")


def messages(row):
    """Return a row as chat messages, or None for plain text."""
    if row.get("messages"):
        return row["messages"]
    if row.get("prompt") is not None:
        asked, answer = row["prompt"], row["completion"]
    elif row.get("instruction") is not None:
        asked, answer = "\\n\\n".join(filter(None, [row["instruction"], row.get("input")])), row["output"]
    else:
        return None
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def tokens(row, tokenizer):
    """Return input_ids and labels: the loss counts only what the assistant says."""
    turns = messages(row)
    if turns is None:
        text = row["text"] + tokenizer.eos_token
        spans = [(0, len(text))]
    else:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        spans = []
        for index, turn in enumerate(turns):
            if turn["role"] == "assistant":
                asked = tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True)
                said = tokenizer.apply_chat_template(turns[: index + 1], tokenize=False)
                spans.append((len(asked), len(said)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = encoded["input_ids"][:MAX_LENGTH], encoded["offset_mapping"][:MAX_LENGTH]
    learned = [
        LEARN_PROMPTS or any(start <= first < end and last > first for start, end in spans) for first, last in places
    ]
    return {"input_ids": ids, "labels": [token if learn else -100 for token, learn in zip(ids, learned)]}
'''

_MAIN = """

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default={model})
    parser.add_argument("--output", default={output})
    parser.add_argument("--max-steps", type=int, default={max_steps})
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun starts one process per GPU
    set_seed({seed})

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = rows(args.data)
    data = data.map(tokens, fn_kwargs={{"tokenizer": tokenizer}}, remove_columns=data.column_names)
    data = data.filter(lambda row: any(label != -100 for label in row["labels"]))
{split}
{quantization}    model = AutoModelForCausalLM.from_pretrained(
        args.model,
        dtype=torch.{dtype},
        attn_implementation={attention},{quantized}{placed}
    )
    model.config.use_cache = False
{adapter}
    training_args = {arguments}
    {kept}trainer = {trainer}(
        model=model,
        args=training_args,
        train_dataset=data,
        eval_dataset={held_out},
        processing_class=tokenizer,
        callbacks=[{callbacks}],
    )
{restored}{loraplus}    trainer.train()
    trainer.save_model(args.output)
    print(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main()
"""


def text(job: Job) -> str:
    """Return the script; it tokenizes, builds and trains the way a LoRAFit run does."""
    plan = job.plan
    head = _HEAD.format(
        # A name from an untrusted plan file must not end the docstring.
        model=re.sub(r"[^\w./@: -]", "_", plan.model_name_or_path),
        method=plan.method,
        packages=_packages(job),
        command="\n     ".join(launch_commands(plan, "train.py")),
        imports=_peft_imports(job),
        transformers=_transformers_imports(job),
        max_length=plan.max_length,
        learn_prompts=not plan.completion_only_loss,
    )
    main = _MAIN.format(
        model=literal(plan.model_name_or_path),
        output=literal(job.output_dir),
        max_steps=plan.max_steps,
        seed=plan.seed,
        split=_split(job),
        quantization=_quantization(job),
        dtype=plan.dtype,
        attention=literal(plan.attn_implementation),
        quantized="\n        quantization_config=quantization," if plan.quantization != "none" else "",
        placed="" if plan.sharding in {"fsdp", "zero3"} else '\n        device_map={"": device},',
        adapter=_adapter(job),
        arguments=_arguments(job),
        kept="kept = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]\n    "
        if job.has_adapter
        else "",
        trainer="AdaLoraTrainer" if _is_adalora(job) else "SFTTrainer",
        callbacks=_callbacks(job),
        held_out="held_out" if plan.eval_split else "None",
        restored="    for weight, values in kept:\n        weight.data = values  # TRL casts adapters to bfloat16\n"
        if job.has_adapter
        else "",
        loraplus=_loraplus(job),
    )
    return head + _DATA + (adapters.ADALORA if _is_adalora(job) else "") + main


def _is_adalora(job: Job) -> bool:
    return job.plan.method == "adalora"


def _callbacks(job: Job) -> str:
    patience = job.plan.early_stopping_patience
    names = [f"EarlyStoppingCallback({patience})"] if patience else []
    names += ["RankBudget()"] if _is_adalora(job) else []
    return ", ".join(names)


def _packages(job: Job) -> str:
    names = ["torch", "transformers>=5.23", "trl>=1.16", "datasets", "accelerate"]
    if job.has_adapter:
        names.insert(3, "peft>=0.21")
    if job.plan.quantization != "none" or "8bit" in job.plan.optim or "paged" in job.plan.optim:
        names.append("bitsandbytes>=0.50")
    return ", ".join(names)


def _peft_imports(job: Job) -> str:
    if not job.has_adapter:
        return ""
    names = ", get_peft_model"
    if job.plan.prepare_kbit:
        names += ", prepare_model_for_kbit_training"
    first, *lines = adapters.imported(job)
    lines.insert(0, first + names)
    if job.plan.loraplus_lr_ratio is not None:
        lines.append("from peft.optimizers import create_loraplus_optimizer")
    return "\n".join(lines)


def _transformers_imports(job: Job) -> str:
    names = ["BitsAndBytesConfig"] if job.plan.quantization != "none" else []
    names += ["EarlyStoppingCallback"] if job.plan.early_stopping_patience else []
    names += ["TrainerCallback"] if _is_adalora(job) else []
    return "".join(f"{name}, " for name in names)


def _split(job: Job) -> str:
    if not job.plan.eval_split:
        return ""
    return (
        f"    parts = data.train_test_split({job.plan.eval_split}, seed={job.plan.seed})\n"
        '    data, held_out = parts["train"], parts["test"]\n'
    )


def _quantization(job: Job) -> str:
    if job.plan.quantization == "none":
        return ""
    return _indented(f"quantization = {snippet.quantization(job)}") + "\n"


def _adapter(job: Job) -> str:
    """Return the lines that freeze, checkpoint and wrap the model."""
    plan = job.plan
    lines = []
    if plan.prepare_kbit:
        lines.append("model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)")
    elif job.has_adapter:
        lines.append("model.requires_grad_(False)")
    if plan.gradient_checkpointing:
        kwargs = {"use_reentrant": plan.use_reentrant}
        lines.append(f"model.activation_checkpointing_enable(activation_checkpointing_kwargs={kwargs})")
        if job.has_adapter:
            lines.append("model.enable_input_require_grads()")
    if job.has_adapter:
        lines += [
            adapters.config_text(job, model_type="model.config.model_type"),
            "model = get_peft_model(model, peft_config, autocast_adapter_dtype=False)",
            "for name, weight in model.named_parameters():",
            '    if weight.requires_grad and "lora_magnitude_vector" not in name:',
            f"        weight.data = weight.data.to(torch.{plan.adapter_dtype})",
        ]
    return _indented("\n".join(lines)) + "\n" if lines else ""


def _arguments(job: Job) -> str:
    """Return the call of ``SFTConfig``; what comes from the command line or the machine stays an expression."""
    plan = job.plan
    values = dict(job.arguments)
    if plan.eval_split:
        values |= {
            "eval_strategy": "steps",
            "eval_steps": plan.save_steps,
            "metric_for_best_model": "loss",
            "load_best_model_at_end": plan.load_best_model_at_end,
        }
    values |= {
        "per_device_eval_batch_size": plan.per_device_train_batch_size,
        "data_seed": plan.seed,
        "completion_only_loss": False,
        "report_to": "none",
    }
    values.pop("max_steps")
    written = call_text("SFTConfig", values)
    expressions = (
        '    output_dir=args.output,\n    max_steps=args.max_steps,\n    use_cpu=device.type == "cpu",\n'
        '    dataloader_pin_memory=device.type != "cpu",\n'
    )
    return _indented(written.replace("(\n", "(\n" + expressions, 1)).lstrip()


def _loraplus(job: Job) -> str:
    if job.plan.loraplus_lr_ratio is None:
        return ""
    return (
        _indented(
            "\n".join(
                [
                    "kind, values = trainer.get_optimizer_cls_and_kwargs(training_args, model)",
                    "trainer.optimizer = create_loraplus_optimizer(",
                    f"    model, optimizer_cls=kind, loraplus_lr_ratio={job.plan.loraplus_lr_ratio}, **values",
                    ")",
                ]
            )
        )
        + "\n"
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
