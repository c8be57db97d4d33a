"""The plan for ``sky launch``: SkyPilot rents a machine in a cloud, and runs the script there."""

import math
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from advisor.export import script
from advisor.export.job import Job, accelerate_on, yaml_text
from specs import GIB, GpuSpec, PlanError
from specs.launch import torchrun_arguments
from specs.sharing import UNSHARDED

_MOST_OF_A_MACHINE = 8
"""Cards of one machine: the most that clouds offer of one kind, https://docs.skypilot.co/en/stable/compute/gpus.html."""
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Tesla T4": "T4",
        "Tesla P100 PCIe 16 GB": "P100",
        "Tesla V100 PCIe 16 GB": "V100",
        "Tesla V100 SXM2 16 GB": "V100",
        "Tesla V100 PCIe 32 GB": "V100-32GB",
        "Tesla V100 SXM2 32 GB": "V100-32GB",
        "A10 PCIe": "A10",
        "A10G": "A10G",
        "A40 PCIe": "A40",
        "A100 PCIe 40 GB": "A100",
        "A100 SXM4 40 GB": "A100",
        "A100 PCIe 80 GB": "A100-80GB",
        "A100 SXM4 80 GB": "A100-80GB",
        "L4": "L4",
        "L40": "L40",
        "L40S": "L40S",
        "H100 PCIe 80 GB": "H100",
        "H100 SXM5 80 GB": "H100",
        "H200 SXM 141 GB": "H200",
        "B200": "B200",
        "Instinct MI300X": "MI300X",
        "GeForce RTX 3090": "RTX3090",
        "GeForce RTX 4090": "RTX4090",
        "RTX A4000": "RTXA4000",
        "RTX A5000": "RTXA5000",
        "RTX A6000": "RTXA6000",
        "RTX 6000 Ada Generation": "RTX6000-Ada",
    }
)
"""SkyPilot's names of cards: its catalog v7, common/metadata.csv, https://github.com/skypilot-org/skypilot-catalog."""
_MOST_BY_MEMORY = 80
"""GB of the largest cards that SkyPilot finds by memory: the same file, which lists none of NVIDIA with more."""

_MODEL = "/tmp/lorafit-model"  # noqa: S108 - on a machine that nobody else uses
"""Where a model that is a folder here lies there."""

_COMMENT = """The plan for SkyPilot 0.14: sky launch -c lorafit sky.yaml, in the folder with train.py and the data
For a model that its owners must let you read: add --secret HF_TOKEN
The result, afterwards: rsync -Pavz lorafit:sky_workdir/output .
The machine costs money until it is given back: sky down lorafit"""


def text(job: Job) -> str:
    """Return SkyPilot's YAML; keys as in ``sky/utils/schemas.py``, 0.14.1.

    Raises:
        PlanError: If no cloud has such devices.
    """
    nodes = nodes_of(job)
    if job.plan.num_gpus % nodes:
        rule = f"must divide into machines of at most {_MOST_OF_A_MACHINE} for SkyPilot"
        raise PlanError("num_gpus", rule, job.plan.num_gpus, f"Choose {nodes * (job.plan.num_gpus // nodes)}")
    accelerators = _accelerators(job.gpu, job.plan.num_gpus // nodes)
    values: dict[str, Any] = {
        "name": "lorafit",
        "workdir": ".",
        "num_nodes": nodes if nodes > 1 else None,
        "resources": {"accelerators": accelerators} if accelerators else None,
        "file_mounts": {_MODEL: job.plan.model_name_or_path} if _is_folder(job) else None,
        "setup": shlex.join(["pip", "install", *script.packages(job)]),
        "run": _run(job, nodes),
    }
    unnamed = (
        "" if job.gpu else "\nNo card was named: add resources: {accelerators: NAME:COUNT}, names by sky show-gpus"
    )
    return yaml_text(values, _COMMENT + unnamed)


def nodes_of(job: Job) -> int:
    """Return how many machines a plan's cards take."""
    return math.ceil(job.plan.num_gpus / _MOST_OF_A_MACHINE)


def _accelerators(gpu: GpuSpec | None, number: int) -> str:
    """Return what SkyPilot calls the cards; those that it has no name for are told by maker and memory."""
    if gpu is None or gpu.is_cpu:
        return ""
    if gpu.name in _NAMES:
        return f"{_NAMES[gpu.name]}:{number}"
    memory = math.ceil(gpu.memory_bytes / GIB)
    if gpu.backend != "cuda" or memory > _MOST_BY_MEMORY:
        way_out = "Plan for one of these, or for an NVIDIA card by its memory such as 24 GB"
        raise PlanError(
            "gpu", "must be a card that clouds rent, such as H200, B200 or MI300X, for SkyPilot", gpu.name, way_out
        )
    return f"nvidia:{memory}GB+:{number}"


def _is_folder(job: Job) -> bool:
    """Return whether the model is a folder on this machine, by how its path begins: ids of the Hub begin otherwise."""
    return job.plan.model_name_or_path.startswith(("/", ".", "~"))


def _run(job: Job, nodes: int) -> str:
    """Return the command that trains on every machine: ``SKYPILOT_NODE_IPS`` lists them, the first one's first."""
    given = [f"--data={job.data.name}"] if job.data.file.kind else []
    given += [f"--model={_MODEL}"] if _is_folder(job) else []
    words = ["train.py", *given, f"--output={job.output_dir}"]
    if job.plan.num_gpus == 1:
        return shlex.join(["python", *words])
    head = '"$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"'
    if job.plan.sharding not in UNSHARDED:  # torchrun alone would train copies
        return f"{accelerate_on(nodes, rank='$SKYPILOT_NODE_RANK', host=head)} {shlex.join(words[1:])}"
    if nodes == 1:
        return shlex.join(["python", "-m", *torchrun_arguments(job.plan.num_gpus), *words])
    command = shlex.join(["python", "-m", *torchrun_arguments(job.plan.num_gpus, nodes=nodes), *words])
    return command.replace("HOST:29500", f"{head}:29500", 1)
