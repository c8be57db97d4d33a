"""The plan as a Python script that needs only transformers, peft and TRL."""

from advisor.export import adapters, script_data, snippet, tasks_script
from advisor.export.conversion import Tool
from advisor.export.job import Job, about_job, call_text, launch_commands, literal, require_reference, words
from advisor.export.tasks_parts import PARTS
from specs import dataset
from specs.sharing import DIVIDES_WEIGHTS

TOOL = Tool(
    name="The script",
    files=("jsonl", "json", "csv", "tsv", "parquet", ""),
    tasks=frozenset({"answers", "text", "preference", "classification", "tags", "related", "similarity"}),
    shapes=("messages", "conversations", "pair", "text", "compared", "lists"),
    reads={
        dataset.SYSTEM,
        dataset.AROUND,
        dataset.TOOLS,
        dataset.CALLS,
        dataset.UNEVEN,
        dataset.LONG,
        dataset.LISTS,
    },
)
"""What the script reads itself."""

_HEAD = '''"""Fine-tunes {model} with {method}, as planned by LoRAFit.

Needs: {packages}
{data}
Run: {command}
     [--data FILE] [--model FOLDER_OR_HUB_ID] [--output FOLDER] [--max-steps N]
"""

{modules}

import torch
from datasets import {datasets}
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
{imports}
from transformers import {auto_class}, AutoTokenizer, {transformers}set_seed
from transformers.utils.chat_template_utils import render_jinja_template
from trl import {trl}
from trl.chat_template_utils import get_training_chat_template

{constants}'''

_MAIN = (
    script_data.MAIN
    + """\
    scratch = tempfile.TemporaryDirectory()
    data = learned(args.data, tokenizer, scratch.name)
{split}
{quantization}    model = {auto_class}.from_pretrained(
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
    scratch.cleanup()


if __name__ == "__main__":
    main()
"""
)


_PAIRED = "PairTrainer"
_PAIR_TRAINER = '''

class PairTrainer(DPOTrainer):
    """Takes rows as tokens, and the base model with the adapter off as the reference."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model.delete_adapter("ref")  # TRL copies the adapter, since it may have been trained before

    def _prepare_dataset(self, dataset, *_):
        return dataset
'''


def text(job: Job) -> str:
    """Return the script; it tokenizes, builds and trains the way a LoRAFit run does."""
    if job.plan.task_type in PARTS:
        return tasks_script.text(job)
    require_reference(job)
    plan = job.plan
    head = _HEAD.format(
        model=words(plan.model_name_or_path),
        method=plan.method,
        packages=", ".join(packages(job)),
        data="\n".join(words(line) for line in about_job(job).split("\n")),
        modules="\n".join(f"import {name}" for name in script_data.modules(job)),
        datasets="Dataset, load_dataset" if script_data.needs_datasets(job) else "Dataset",
        trl=f"{job.config}, {_trainer(job)}",
        constants=script_data.constants(job),
        command="\n     ".join(launch_commands(plan, "train.py", job.nodes)),
        imports=_peft_imports(job),
        auto_class=job.auto_class,
        transformers=_transformers_imports(job),
    )
    main = _MAIN.format(
        model=literal(plan.model_name_or_path),
        output=literal(job.output_dir),
        max_steps=plan.max_steps,
        seed=plan.seed,
        data=literal(job.data.name.partition("@")[0] if not job.data.file.kind else job.data.name),
        split=_split(job),
        quantization=_quantization(job),
        auto_class=job.auto_class,
        dtype=plan.dtype,
        attention=literal(plan.attn_implementation),
        quantized="\n        quantization_config=quantization," if plan.quantization != "none" else "",
        placed="" if plan.sharding in DIVIDES_WEIGHTS else '\n        device_map={"": device},',
        adapter=_adapter(job),
        arguments=_arguments(job),
        kept="kept = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]\n    "
        if job.has_adapter
        else "",
        trainer=_PAIRED if job.data.is_pairs else "AdaLoraTrainer" if _is_adalora(job) else "SFTTrainer",
        callbacks=_callbacks(job),
        held_out="held_out" if job.evaluates else "None",
        restored="    for weight, values in kept:\n        weight.data = values  # TRL casts adapters to bfloat16\n"
        if job.has_adapter
        else "",
        loraplus=_loraplus(job),
    )
    extra = adapters.ADALORA if _is_adalora(job) else _PAIR_TRAINER if job.data.is_pairs else ""
    return head + script_data.text(job) + extra + main


def _trainer(job: Job) -> str:
    return "DPOTrainer" if job.data.is_pairs else "SFTTrainer"


def _is_adalora(job: Job) -> bool:
    return job.plan.method == "adalora"


def _callbacks(job: Job) -> str:
    patience = job.plan.early_stopping_patience
    names = [f"EarlyStoppingCallback({patience})"] if patience else []
    names += ["RankBudget()"] if _is_adalora(job) else []
    return ", ".join(names)


def packages(job: Job) -> list[str]:
    """Return the packages that the script needs, as pip takes them."""
    if job.plan.task_type in PARTS:
        return tasks_script.packages(job, PARTS[job.plan.task_type].packages)
    names = ["torch", "transformers>=5.23", "trl>=1.16", "datasets", "accelerate"]
    if job.has_adapter:
        names.insert(3, "peft>=0.21")
    if job.plan.quantization != "none" or "8bit" in job.plan.optim or "paged" in job.plan.optim:
        names.append("bitsandbytes>=0.50")
    return names


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
    """Return the lines that give the rows to evaluate on, and leave out what no trainer reads."""
    data = job.data
    lines = []
    if job.eval_share:
        lines = [
            'apart = held_out_rows(data["group"])',
            "held_out = data.select(apart)",
            "data = data.select(sorted({*range(len(data))} - {*apart}))",
        ]
    elif data.evaluation_split:
        lines = [f"held_out = learned({literal(data.evaluation_name or data.name)}, tokenizer, scratch.name)"]
    parts = ("data", "held_out") if job.evaluates else ("data",)
    lines += [f'{name} = {name}.remove_columns("group")' for name in parts]
    return _indented("\n".join(lines)) + "\n"


def _quantization(job: Job) -> str:
    if job.plan.quantization == "none":
        return ""
    return _indented(f"quantization = {snippet.quantization(job)}") + "\n"


def _adapter(job: Job) -> str:
    """Return the lines that freeze, checkpoint and wrap the model."""
    lines = adapters.wrapping_lines(job)
    return _indented("\n".join(lines)) + "\n" if lines else ""


def _arguments(job: Job) -> str:
    """Return the call of ``SFTConfig``; what comes from the command line or the machine stays an expression."""
    plan = job.plan
    values = dict(job.arguments)
    if job.evaluates:
        values |= {
            "eval_strategy": "steps",
            "eval_steps": plan.save_steps,
            "metric_for_best_model": "loss",
            "load_best_model_at_end": plan.load_best_model_at_end,
        }
    values |= {
        "per_device_eval_batch_size": plan.per_device_train_batch_size,
        "data_seed": plan.seed,
        **({} if job.data.is_pairs else {"completion_only_loss": False}),
        "report_to": "none",
    }
    values.pop("max_steps")
    written = call_text(job.config, values)
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
