"""The configuration of ``accelerate launch`` for a plan's devices."""

from typing import Any

from advisor.export.job import Job, accelerate_command, yaml_text

_NODES = {"same_network": False, "main_process_port": 29500}
"""Several nodes meet through torchrun's own rendezvous, also under DeepSpeed."""
_MIXED_PRECISION = {"bfloat16": "bf16", "float16": "fp16", None: "no"}


def text(job: Job) -> str:
    """Return accelerate's YAML: one device, copies, DeepSpeed ZeRO or FSDP."""
    plan = job.plan
    kind = {"none": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(plan.sharding, "DEEPSPEED")
    values: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "num_machines": job.nodes,
        "machine_rank": 0,
        "num_processes": plan.num_gpus,
        "mixed_precision": _MIXED_PRECISION[plan.autocast_dtype],
        "main_training_function": "main",
        "deepspeed_config": _deepspeed(job) if kind == "DEEPSPEED" else None,
        "fsdp_config": _fsdp(job) if kind == "FSDP" else None,
        "use_cpu": False,
        **(_NODES if job.nodes > 1 else {}),
    }
    return yaml_text(values, accelerate_command(job.nodes))


def _deepspeed(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        **({"deepspeed_multinode_launcher": "standard"} if job.nodes > 1 else {}),
        "zero_stage": int(plan.sharding.removeprefix("zero")),
        "zero3_init_flag": plan.sharding == "zero3",
        "zero3_save_16bit_model": plan.sharding == "zero3",
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_clipping": plan.max_grad_norm,
        "offload_optimizer_device": "none" if plan.offload == "none" else "cpu",
        "offload_param_device": "cpu" if plan.offload == "all" else "none",
    }


def _fsdp(job: Job) -> dict[str, Any]:
    return {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": True,
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_offload_params": job.plan.offload == "all",
        "fsdp_activation_checkpointing": False,
    }
