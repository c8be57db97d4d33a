"""What a run cannot do is said before it exists, in one sentence, without loading torch."""

import importlib.util
import subprocess
import sys

import pytest

from specs import FinetunePlan, LorafitError
from specs.paths import REPO
from trainer.runs.feasibility import Ground, require_feasible

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
CPU = Ground(device="cpu", compute_capabilities=(), linear_modules=MODULES)
TURING, AMPERE = (7, 5), (8, 0)


def gpu(*capabilities, device="cuda:0"):
    return Ground(device=device, compute_capabilities=capabilities)


def plan(**values):
    return FinetunePlan.for_method(values.pop("method", "lora"), "m", **values)


@pytest.mark.parametrize(
    ("values", "ground", "words"),
    [
        ({"report_to": "wandb"}, CPU, "report_to: needs a package that is not installed, got wandb. Run pip install"),
        (
            {"num_gpus": 2, "sharding": "zero3"},
            CPU,
            "sharding: must be none, ddp or fsdp on a CPU in a run, as ZeRO is DeepSpeed's, which runs do not use, got "
            "zero3. Choose fsdp, or export the plan for accelerate, which starts it: accelerate launch --config_file "
            "accelerate.yaml train.py.",
        ),
        (
            {"num_gpus": 2, "sharding": "fsdp"},
            gpu(AMPERE, AMPERE),
            "sharding: must be none or ddp in a run on GPUs, where no run was tried that divides the model, got fsdp. "
            "Choose ddp, or export the plan for accelerate, which starts it: accelerate launch",
        ),
        (
            {"method": "qlora", "num_gpus": 2, "sharding": "fsdp"},
            CPU,
            "bnb_4bit_quant_storage: must be a float format with sharding fsdp, which divides no integers, got uint8",
        ),
        (
            {"num_gpus": 2, "sharding": "fsdp", "init_lora_weights": "pissa"},
            CPU,
            "init_lora_weights: must be default or gaussian in a run with sharding fsdp, got pissa. Change it, or",
        ),
        (
            {"num_gpus": 2, "sharding": "fsdp", "optim": "adafactor"},
            CPU,
            "optim: must be adamw_torch or adamw_torch_fused in a run with sharding fsdp, got adafactor",
        ),
        (
            {"num_gpus": 2, "sharding": "zero2"},
            gpu(AMPERE, AMPERE),
            "sharding: must be none or ddp in a run",
        ),
        ({"num_gpus": 4, "sharding": "ddp"}, gpu(AMPERE, AMPERE), "num_gpus: must be at most 2, the number of GPUs"),
        ({}, gpu(AMPERE, device="cuda:1"), "device: must be cpu, or one of the 1 GPUs of this machine, got 'cuda:1'"),
        ({}, gpu(), "device: must be cpu: there is no GPU, got 'cuda:0'"),
        ({}, Ground(device="gpu1"), "device: must be cpu, mps, cuda:N or xpu:N, or cuda:N,M for several, got gpu1"),
        ({}, Ground(device="mps"), "device: mps is the GPU of a Mac with an M1 or later, got mps. Choose another"),
        ({}, Ground(device="xpu:0"), "device: xpu needs the build of torch for Intel's GPUs, and here is another"),
        ({"num_gpus": 2, "sharding": "ddp"}, Ground(device="xpu:0,1", here=False), "must be 1 on xpu: more were never"),
        (
            {"method": "qlora", "optim": "paged_adamw_8bit"},
            Ground(device="mps", here=False),
            "optim: must not be one of bitsandbytes, which has none for Apple's GPUs yet (0.50), got paged_adamw_8bit",
        ),
        ({"attn_implementation": "flash_attention_2"}, CPU, "needs the flash-attn package and a CUDA device, got cpu"),
        (
            {"target_modules": ("q_porj",)},
            CPU,
            "target_modules: must name linear modules of the model, got q_porj. Nearest: q_proj",
        ),
        (
            {"rank_pattern": {"k_porj": 4}},
            CPU,
            "rank_pattern: must name linear modules of the model, got k_porj. Nearest",
        ),
        ({"method": "full"}, Ground(device="cpu", has_pairs=True), "method: must keep the base model unchanged"),
        (
            {"task_type": "TOKEN_CLS", "loss": "full"},
            Ground(device="cpu", task_types=("SEQ_2_SEQ_LM",), kinds=("tags",)),
            "m: is trained for text generation with an encoder and a decoder, not for token classification. Choose",
        ),
        (
            {},
            Ground(device="cpu", task_types=("SEQ_CLS", "TOKEN_CLS"), kinds=("answers",)),
            "m: is trained for text classification and token classification, not for text generation. Choose another",
        ),
        ({"method": "adalora", "max_steps": 100}, Ground(device="cpu", has_pairs=True), "DPO starts with two"),
    ],
)
def test_what_cannot_run_is_refused_with_the_way_out(values, ground, words, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LorafitError) as caught:
        require_feasible(plan(**values), ground)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_flash_attention_needs_a_card_that_computes_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    flash = plan(attn_implementation="flash_attention_2")
    with pytest.raises(LorafitError, match="needs compute capability"):
        require_feasible(flash, gpu(AMPERE, TURING, device="cuda:1"))
    require_feasible(flash, gpu(AMPERE, TURING, device="cuda:0"))


@pytest.mark.parametrize(
    ("values", "ground"),
    [
        pytest.param({"report_to": "tensorboard"}, CPU, id="TensorBoard's files are always written"),
        pytest.param({"num_gpus": 2, "sharding": "ddp"}, CPU, id="two processes on a CPU"),
        pytest.param({"num_gpus": 2, "sharding": "ddp"}, gpu(AMPERE, AMPERE, device="cuda:0,1"), id="two cards"),
        pytest.param(
            {"rank_pattern": {r"layers\\.0\\..*q_proj": 4}}, CPU, id="an expression, which only the worker can try"
        ),
        pytest.param({"target_modules": ("anything",)}, Ground(device="cpu"), id="a model that nobody knows"),
        pytest.param({}, Ground(device="cuda:3"), id="cards that the machine does not list"),
    ],
)
def test_what_can_run_or_cannot_be_told_is_not_refused(values, ground):
    require_feasible(plan(**values), ground)


def test_the_check_loads_no_torch():
    code = "import sys, trainer.runs.feasibility; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
