"""The plan as a Python script for a task of its own: transformers' trainer, with a head where the task has one."""

from collections.abc import Sequence

from advisor.export import adapters, script_data, snippet, tasks_parts
from advisor.export.job import Job, about_job, call_text, launch_commands, literal, words
from advisor.export.part import Part
from specs import TASK_TYPES, PlanError

_HEAD = '''"""Fine-tunes {model} for {task} with {method}, as planned by LoRAFit.

Needs: {packages}
{data}
Run: {command}
     [--data FILE] [--model FOLDER_OR_HUB_ID] [--output FOLDER] [--max-steps N]
"""

{modules}
{portable}

import torch
from datasets import {datasets}
{peft}
{imports}
from transformers import (
    {transformers}
)

MAX_LENGTH = {max_length}
'''

_HELD_OUT = '''

def held_out_rows(groups, labels):
    """Return the rows to evaluate on: whole groups of each class in an order given by the seed."""
    of_group = dict(zip(reversed(groups), reversed(labels)))
    members = collections.defaultdict(list)
    for row, group in enumerate(groups):
        members[of_group[group]].append(row)
    apart = []
    for held in members.values():
        sizes = collections.Counter(groups[row] for row in held)
        if len(sizes) < 2 and len(members) > 1:
            continue
        wanted, count, chosen = max(1, round({share} * len(held))), 0, set()
        for group in sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {{group}}".encode()).digest()):
            if count < wanted:
                chosen.add(group)
                count += sizes[group]
        apart += [row for row in held if groups[row] in chosen]
    return sorted(apart)
'''

_MAIN = (
    script_data.MAIN
    + """\
    config = AutoConfig.from_pretrained(args.model)
{head}{quantization}    model = {auto_class}.from_pretrained(
        args.model,
        config=config,
        dtype=torch.{dtype},
        attn_implementation={attention},{quantized}
        device_map={{"": device}},
    )
    model.config.use_cache = False
{adapter}{made}    every = data = {learned}
    held_out = None
{split}    training_args = {arguments}
    trainer = {trainer}(
        model=model,
        args=training_args,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[{callbacks}],
        **values(model, tokenizer, every, held_out),
    )
{loraplus}    trainer.train()
{evaluate}    trainer.save_model(args.output)
{config}    print(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main()
"""
)

_CASTS = """def cast(module, inputs):
    dtype = next(module.parameters()).dtype
    return tuple(one.to(dtype) if torch.is_tensor(one) and one.is_floating_point() else one for one in inputs)

for wrapper in model.modules():
    if isinstance(wrapper, ModulesToSaveWrapper):
        for module in wrapper.modules_to_save.values():
            module.register_forward_pre_hook(cast)"""


def text(job: Job) -> str:
    """Return the script; its rows, tokens, labels and steps are those of a LoRAFit run.

    Raises:
        PlanError: If the plan's method needs more than transformers' own trainer.
    """
    plan, task = job.plan, TASK_TYPES[job.plan.task_type]
    if plan.method == "adalora":
        raise PlanError("method", f"the script for {task.label} trains no AdaLoRA", plan.method, "Choose lora")
    part = tasks_parts.PARTS[plan.task_type]
    head = _HEAD.format(
        model=words(plan.model_name_or_path),
        task=task.label,
        method=plan.method,
        packages=", ".join(packages(job, part.packages)),
        data="\n".join(words(line) for line in about_job(job).split("\n")),
        modules="\n".join(f"import {name}" for name in _modules(job, part.modules)),
        imports="\n".join(part.imports),
        portable="\n".join([*part.portable_imports, *([_PORTABLE] if part.portable else [])]),
        datasets="Dataset, load_dataset" if script_data.needs_datasets(job) else "Dataset",
        command="\n     ".join(launch_commands(plan, "train.py", job.nodes)),
        peft=_peft(job),
        transformers="\n    ".join(f"{name}," for name in _imported(job, part)),
        max_length=plan.max_length,
    )
    heads = tasks_parts.HEADS if task.has_head else ""
    held_out = _HELD_OUT.format(share=plan.eval_split, seed=plan.seed) if plan.eval_split else ""
    return (
        head.replace("\n\n\n", "\n\n")
        + script_data.rows(job)
        + heads
        + tasks_parts.text(job, part)
        + held_out
        + _main(job, part)
    )


def _main(job: Job, part: Part) -> str:
    plan, task = job.plan, TASK_TYPES[job.plan.task_type]
    patience = plan.early_stopping_patience
    labels = f"config.num_labels, config.problem_type = {plan.num_labels}, {literal(task.problem_type)}"
    return _MAIN.format(
        data=literal(job.data.name),
        model=literal(plan.model_name_or_path),
        output=literal(job.output_dir),
        max_steps=plan.max_steps,
        seed=plan.seed,
        head=f"    {labels}\n" if task.has_head else "",
        auto_class=task.auto_class,
        trainer=part.trainer,
        quantization=_quantization(job),
        dtype=plan.dtype,
        attention=literal(plan.attn_implementation),
        quantized="\n        quantization_config=quantization," if plan.quantization != "none" else "",
        adapter=_adapter(job),
        made=f"    model = {part.made}\n" if part.made else "",
        learned=part.learned,
        config="" if part.made else "    model.config.save_pretrained(args.output)\n",
        split=_indented(_SPLIT.format(strata=part.strata)) + "\n" if plan.eval_split else "",
        arguments=_arguments(job, part),
        callbacks=f"EarlyStoppingCallback({patience})" if patience else "",
        loraplus=_loraplus(job),
        evaluate="    trainer.evaluate()\n" if plan.eval_split else "",
    )


_PORTABLE = "from collections.abc import Iterator, Mapping, Sequence\nfrom typing import Any"
"""What the functions of ``specs.portable`` name."""

_SAID_OTHERWISE = frozenset({"max_length", "packing", "max_steps"})
"""Arguments of TRL, or of the command line."""

_SPLIT = """apart = held_out_rows(data["group"][:], {strata})
held_out = data.select(apart)
data = data.select(sorted({{*range(len(data))}} - {{*apart}}))"""


def packages(job: Job, more: Sequence[str]) -> list[str]:
    """Return the packages that the script needs, as pip takes them; more are those of its task."""
    names = ["torch", "transformers>=5.23", "datasets", "accelerate", *more]
    names += ["peft>=0.21"] if job.has_adapter else []
    needs_bnb = job.plan.quantization != "none" or "8bit" in job.plan.optim or "paged" in job.plan.optim
    return [*names, *(["bitsandbytes>=0.50"] if needs_bnb else [])]


def _modules(job: Job, more: Sequence[str]) -> list[str]:
    names = ["argparse", "hashlib", "json", "os", "sys", *more]
    names += ["csv"] if job.data.file.kind in {"csv", "tsv"} else []
    return sorted({*names, *(["collections"] if job.plan.eval_split else [])})


def _peft(job: Job) -> str:
    if not job.has_adapter:
        return ""
    first, *lines = adapters.imported(job)
    names = ", get_peft_model" + (", prepare_model_for_kbit_training" if job.plan.prepare_kbit else "")
    lines = [first + names, *lines]
    if _casts_heads(job):
        lines.append("from peft.utils import ModulesToSaveWrapper")
    if job.plan.loraplus_lr_ratio is not None:
        lines.append("from peft.optimizers import create_loraplus_optimizer")
    return "\n".join(lines)


def _imported(job: Job, part: Part) -> list[str]:
    names = ["AutoConfig", TASK_TYPES[job.plan.task_type].auto_class, "AutoTokenizer", "set_seed"]
    names += ["BitsAndBytesConfig"] if job.plan.quantization != "none" else []
    names += ["EarlyStoppingCallback"] if job.plan.early_stopping_patience else []
    own = {part.trainer, part.arguments} if part.of_transformers else set[str]()
    return sorted({*names, *own, *part.transformers})


def _quantization(job: Job) -> str:
    """Return the lines that quantize all but the head."""
    task = TASK_TYPES[job.plan.task_type]
    if job.plan.quantization == "none":
        return ""
    lines = [f"quantization = {snippet.quantization(job)}"]
    if task.has_head:
        lines += [
            'with torch.device("meta"):',
            f"    new = new_modules({task.auto_class}.from_config(config))",
            "quantization.llm_int8_skip_modules = new",
        ]
    return _indented("\n".join(lines)) + "\n"


def _adapter(job: Job) -> str:
    """Return the lines that freeze, checkpoint and wrap the model; its new modules are trained whole."""
    whole = ["peft_config.modules_to_save = new_modules(model)"] if TASK_TYPES[job.plan.task_type].has_head else []
    lines = adapters.wrapping_lines(job, before=whole)
    lines += [_CASTS] if job.has_adapter and _casts_heads(job) else []
    return _indented("\n".join(lines)) + "\n" if lines else ""


def _casts_heads(job: Job) -> bool:
    """Return whether a head of another dtype than the model's must cast what it is given."""
    return TASK_TYPES[job.plan.task_type].has_head and job.plan.autocast_dtype is None


def _arguments(job: Job, part: Part) -> str:
    plan = job.plan
    values = {name: value for name, value in job.arguments.items() if name not in _SAID_OTHERWISE}
    if plan.eval_split:
        values |= {
            "eval_strategy": "steps",
            "eval_steps": plan.save_steps,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
            "load_best_model_at_end": plan.load_best_model_at_end,
        }
    values |= {
        "per_device_eval_batch_size": plan.per_device_train_batch_size,
        "data_seed": plan.seed,
        "remove_unused_columns": False,
        **({"label_names": [*part.label_names]} if part.label_names else {}),
        **part.values,
        "report_to": "none",
    }
    expressions = (
        '    output_dir=args.output,\n    max_steps=args.max_steps,\n    use_cpu=device.type == "cpu",\n'
        '    dataloader_pin_memory=device.type != "cpu",\n'
    )
    return _indented(call_text(part.arguments, values).replace("(\n", "(\n" + expressions, 1)).lstrip()


def _loraplus(job: Job) -> str:
    if job.plan.loraplus_lr_ratio is None:
        return ""
    lines = [
        "kind, values = trainer.get_optimizer_cls_and_kwargs(training_args, model)",
        "trainer.optimizer = create_loraplus_optimizer(",
        f"    model, optimizer_cls=kind, loraplus_lr_ratio={job.plan.loraplus_lr_ratio}, **values",
        ")",
    ]
    return _indented("\n".join(lines)) + "\n"


def _indented(lines: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in lines.splitlines())
