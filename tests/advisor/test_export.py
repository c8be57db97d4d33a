"""Exports run, and the tools that they are for can read them."""

import ast
import dataclasses
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

from advisor.export import FORMATS, assumed, exported
from advisor.export.job import launch_commands
from specs import METHODS, FinetunePlan, PlanError

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
KEYS = json.loads((Path(__file__).parents[1] / "golden" / "export_keys.json").read_text(encoding="utf-8"))

PLANS = [
    pytest.param(FinetunePlan.for_method("qlora", MODEL, bf16=True, gradient_checkpointing=True), id="QLoRA"),
    pytest.param(
        FinetunePlan.for_method("lora", MODEL, warmup_steps=10.0, init_lora_weights="pissa"), id="LoRA, PiSSA"
    ),
    pytest.param(FinetunePlan.for_method("lora-8bit", MODEL, target_modules=("q_proj", "v_proj")), id="8-bit"),
    pytest.param(FinetunePlan.for_method("dora", MODEL, loraplus_lr_ratio=16.0, eval_split=0.05), id="DoRA, LoRA+"),
    pytest.param(FinetunePlan.for_method("full", MODEL, completion_only_loss=False, max_steps=7), id="full"),
    pytest.param(FinetunePlan.for_method("qlora", MODEL, prepare_kbit=True), id="kbit"),
    pytest.param(FinetunePlan.for_method("lora", MODEL, num_gpus=4, sharding="ddp"), id="four copies"),
    pytest.param(FinetunePlan.for_method("full", MODEL, num_gpus=8, sharding="zero3", bf16=True), id="ZeRO-3"),
    pytest.param(
        FinetunePlan.for_method("qlora", MODEL, num_gpus=2, sharding="fsdp", bnb_4bit_quant_storage="bfloat16"),
        id="QLoRA under FSDP",
    ),
    pytest.param(
        FinetunePlan.for_method(
            "qlora",
            MODEL,
            gradient_checkpointing=True,
            every_n_layers=2,
            activation_offloading=True,
            layer_offloading=True,
            torch_empty_cache_steps=3,
        ),
        id="what waits in RAM",
    ),
]
BEYOND_LORA = [
    pytest.param(FinetunePlan.for_method("adalora", MODEL, load_in_4bit=True, max_steps=9, tinit=2), id="AdaLoRA"),
    pytest.param(FinetunePlan.for_method("ia3", MODEL, target_modules=("k_proj", "down_proj")), id="IA3"),
    *(pytest.param(FinetunePlan.for_method(name, MODEL), id=name) for name in ("miss", "oft", "vera", "hira")),
    *(pytest.param(FinetunePlan.for_method(name, MODEL), id=name) for name in ("loha", "lokr", "beft", "ln-tuning")),
    pytest.param(FinetunePlan.for_method("prompt-tuning", MODEL, num_virtual_tokens=7), id="prompt tuning"),
    pytest.param(FinetunePlan.for_method("prefix-tuning", MODEL, load_in_8bit=True), id="prefix tuning"),
    pytest.param(
        FinetunePlan.for_method("lora", MODEL, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 8}), id="ranks"
    ),
]


@pytest.mark.parametrize("plan", [*PLANS, *BEYOND_LORA])
def test_the_script_and_the_snippet_are_python(plan):
    for name in ("script", "snippet"):
        ast.parse(exported(plan, name).main[1])


@pytest.mark.parametrize("plan", [*PLANS, *BEYOND_LORA])
def test_the_script_needs_nothing_from_lorafit(plan):
    tree = ast.parse(exported(plan, "script").main[1])
    imported = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported - sys.stdlib_module_names <= {"torch", "datasets", "jinja2", "peft", "transformers", "trl"}


@pytest.mark.parametrize("plan", [*PLANS, *BEYOND_LORA])
def test_the_plan_file_reads_back_to_the_same_plan(plan):
    assert FinetunePlan.from_json(exported(plan, "plan").main[1]) == plan


@pytest.mark.parametrize("plan", PLANS)
def test_the_snippet_builds_the_objects_with_the_plans_values(plan, tmp_path):
    names = {}
    source = exported(plan, "snippet").main[1].replace('output_dir="output"', f"output_dir={str(tmp_path)!r}")
    if plan.bf16:
        source = source.replace("SFTConfig(\n", "SFTConfig(\n    use_cpu=True,\n")
    exec(compile(source, "snippet.py", "exec"), names)  # noqa: S102 - our own export
    arguments = names["training_args"]
    assert arguments.learning_rate == plan.learning_rate
    assert arguments.activation_checkpointing == plan.gradient_checkpointing
    if plan.method != "full":
        assert (names["peft_config"].r, names["peft_config"].lora_alpha) == (plan.r, plan.lora_alpha)
    if plan.load_in_4bit:
        assert names["quantization_config"].bnb_4bit_use_double_quant == plan.bnb_4bit_use_double_quant


@pytest.mark.parametrize("plan", BEYOND_LORA)
def test_the_snippet_configures_other_adapters_as_the_plan_says(plan):
    names = {}
    source = exported(plan, "snippet").main[1].partition("training_args")[0]
    exec(compile(source, "snippet.py", "exec"), names)  # noqa: S102 - our own export
    config, said = names["peft_config"].to_dict(), plan.to_dict()
    told = {name for name in said if name in config and METHODS[plan.method].uses(name)}
    told -= {"target_modules", "init_lora_weights"}
    assert config["peft_type"] == METHODS[plan.method].peft_type
    assert plan.method != "ia3" or set(config["target_modules"]) == set(plan.target_modules)
    assert {name: config[name] or said[name] for name in told} == {name: said[name] for name in told}


@pytest.mark.parametrize("tool", ["trl", "axolotl", "llamafactory"])
@pytest.mark.parametrize("plan", BEYOND_LORA)
def test_a_tool_without_the_adapter_is_refused_with_a_way_out(plan, tool):
    if (plan.method, tool) == ("oft", "llamafactory"):  # the one that it has
        lines = exported(plan, tool).main[1].splitlines()
        assert {'finetuning_type: "oft"', f"oft_block_size: {plan.oft_block_size}", 'oft_target: "all"'} <= {*lines}
        return
    with pytest.raises(PlanError, match=r"(method|rank_pattern): .* Export the Python script\.$"):
        exported(plan, tool)


@pytest.mark.parametrize("plan", PLANS)
def test_trl_parses_its_yaml_into_the_plans_values(plan, tmp_path):
    path = tmp_path / "trl.yaml"
    path.write_text(exported(plan, "trl").main[1], encoding="utf-8")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    _, training, model, data = parser.parse_args_and_config(
        ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "true"]
    )
    assert training.learning_rate == plan.learning_rate
    assert training.warmup_steps == plan.warmup_steps
    assert model.load_in_4bit == plan.load_in_4bit
    assert model.use_peft == (plan.method != "full")
    assert data.datasets[0].data_files == "data.jsonl"


def test_torchrun_reads_the_commands_for_several_devices_and_nodes():
    plan = FinetunePlan.for_method("lora", MODEL, num_gpus=8, sharding="ddp")
    alone, shared = (shlex.split(command, comments=True) for command in launch_commands(plan, "train.py"))
    assert alone[:3] == shared[:3] == ["python", "-m", "torch.distributed.run"]
    one, two = (get_args_parser().parse_args(command[3:]) for command in (alone, shared))
    assert (one.nnodes, one.nproc_per_node, one.training_script) == ("1:1", "8", "train.py")
    assert (two.nnodes, two.nproc_per_node, two.rdzv_endpoint) == ("2", "4", "HOST:29500")
    assert all(" ".join(command) in exported(plan, "script").main[1] for command in (alone, shared))


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero1", "zero3"])
def test_accelerate_launches_a_plan_on_several_nodes_that_meet_through_torchrun(sharding, tmp_path):
    plan = FinetunePlan.for_method("lora", MODEL, num_gpus=6, sharding=sharding)
    made = exported(plan, "accelerate", nodes=3)
    (tmp_path / "accelerate.yaml").write_text(made.main[1], encoding="utf-8")
    command = made.command.replace("accelerate.yaml", str(tmp_path / "accelerate.yaml")).replace("K", "1")
    *_, words = command.partition("launch ")
    given, *_ = _validate_launch_command(launch_command_parser().parse_args(shlex.split(words, comments=True)))
    if sharding.startswith("zero"):
        assert (given.use_deepspeed, given.zero_stage) == (True, int(sharding[-1]))
        assert given.deepspeed_multinode_launcher == "standard"
    else:
        assert (given.use_fsdp, given.fsdp_version) == (
            sharding == "fsdp",
            2 if sharding == "fsdp" else given.fsdp_version,
        )
    prepare_multi_gpu_env(given)
    assert (given.nnodes, given.nproc_per_node, given.rdzv_backend) == ("3", "2", "c10d")
    assert (given.rdzv_endpoint, given.training_script) == ("HOST:29500", "train.py")


@pytest.mark.parametrize(
    ("sharding", "nodes", "command"),
    [
        ("ddp", 1, "python -m torch.distributed.run --standalone --nproc-per-node=6 train.py"),
        ("ddp", 2, "python -m torch.distributed.run --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500"),
        ("fsdp", 1, "accelerate launch --config_file accelerate.yaml train.py"),
    ],
)
def test_a_script_for_several_devices_names_what_starts_it_on_them(sharding, nodes, command):
    plan = FinetunePlan.for_method("lora", MODEL, num_gpus=6, sharding=sharding)
    made = exported(plan, "script", nodes=nodes)
    assert made.command.startswith(command)
    assert f"Run: {command}" in made.main[1]


@pytest.mark.parametrize(
    ("name", "nodes", "words"),
    [
        ("script", 4, "nodes: must divide the plan's 6 devices, got 4. Choose another number."),
        ("trl", 2, "nodes: must be 1 in an export to TRL command line, got 2. Export the Python script, or for accele"),
    ],
)
def test_nodes_that_an_export_cannot_have_are_refused(name, nodes, words):
    with pytest.raises(PlanError, match=words):
        exported(FinetunePlan.for_method("lora", MODEL, num_gpus=6, sharding="ddp"), name, nodes=nodes)


@pytest.mark.parametrize("plan", [*PLANS, *BEYOND_LORA])
def test_accelerate_loads_its_configuration(plan, tmp_path):
    path = tmp_path / "accelerate.yaml"
    path.write_text(exported(plan, "accelerate").main[1], encoding="utf-8")
    config = load_config_from_file(str(path))
    assert config.num_processes == plan.num_gpus
    assert (config.distributed_type.value == "FSDP") == (plan.sharding == "fsdp")
    if plan.sharding == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3


def test_a_tool_is_told_what_waits_in_ram_or_that_it_has_no_such_setting():
    (plan,) = PLANS[-1].values
    told = {name: exported(plan, name).main[1] for name in ("script", "snippet", "trl", "axolotl", "llamafactory")}
    recomputing = {"use_reentrant": False, "every_n_layers": 2, "offload": True}
    assert yaml.safe_load(told["trl"])["activation_checkpointing_kwargs"] == recomputing
    assert str(recomputing).replace("'", '"') in told["snippet"].replace("'", '"')
    axolotl = yaml.safe_load(told["axolotl"])
    assert (axolotl["activation_offloading"], axolotl["layer_offloading"]) == ("hidden_states", True)
    assert "every_n_layers 2 is left out" in told["axolotl"]
    assert "every_n_layers 2 and offload True is left out" in told["llamafactory"]
    assert all("torch_empty_cache_steps" in text for text in told.values())
    stays = "Layers stay on the card here"
    assert [name for name, text in told.items() if stays not in text] == ["axolotl"]


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
@pytest.mark.parametrize("plan", PLANS)
def test_yaml_uses_keys_that_the_tool_documents(plan, tool):
    values = yaml.safe_load(exported(plan, tool).main[1])
    assert set(values) <= set(KEYS[tool]["keys"])
    assert values["learning_rate"] == plan.learning_rate


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_the_tool_itself_reads_its_yaml_to_the_plans_values(tool, tmp_path):
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    plans, files = [param.values[0] for param in PLANS], []
    for number, plan in enumerate(plans):
        files.append(tmp_path / f"{number}.yaml")
        text = exported(plan, tool).main[1].replace('output_dir: "output"', f"output_dir: {tmp_path}")
        files[-1].write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.advisor.reading", tool, *map(str, files)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    understood = json.loads(done.stdout.splitlines()[-1])
    assert understood == [
        {
            "batch": plan.per_device_train_batch_size,
            "accumulation": plan.gradient_accumulation_steps,
            "length": plan.max_length,
            "rate": plan.learning_rate,
            "r": plan.r if plan.method != "full" else None,
            "bits": {"4bit": 4, "8bit": 8, "none": None}[plan.quantization],
        }
        for plan in plans
    ]


@pytest.mark.parametrize("data", ["my data.jsonl", "user/name", "C:\\rows.csv", "a'b\"c\n.jsonl"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_any_name_of_a_data_set_survives_every_format(name, data):
    text = exported(
        FinetunePlan.for_method("lora", 'x"""\nimport shelve\n"""'), name, data=assumed(data, "instruction")
    ).main[1]
    if name in {"script", "snippet"}:
        imported = {
            alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
        }
        assert "shelve" not in imported
    elif name != "plan":
        yaml.safe_load(text)


def test_every_field_that_a_run_uses_reaches_the_script():
    other = {
        "r": 24, "lora_alpha": 40, "lora_dropout": 0.125, "learning_rate": 3.5e-4, "lr_scheduler_type": "constant",
        "warmup_steps": 17.0, "weight_decay": 0.0625, "max_grad_norm": 0.375, "num_train_epochs": 2.5, "max_steps": 77,
        "logging_steps": 13, "save_steps": 31, "seed": 12345, "per_device_train_batch_size": 3, "max_length": 333,
        "gradient_accumulation_steps": 5, "optim": "lion_32bit", "bias": "lora_only", "adapter_dtype": "bfloat16",
        "dtype": "float16", "attn_implementation": "eager", "bnb_4bit_quant_type": "fp4", "eval_split": 0.1875,
        "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "float16", "init_lora_weights": "gaussian",
        "target_modules": ("q_proj", "o_proj"), "loraplus_lr_ratio": 8.5, "torch_empty_cache_steps": 4,
    }  # fmt: skip
    plan = FinetunePlan.for_method("qlora", MODEL)
    plain = exported(plan, "script").main[1]
    for name, value in other.items():
        assert exported(dataclasses.replace(plan, **{name: value}), "script").main[1] != plain, name
