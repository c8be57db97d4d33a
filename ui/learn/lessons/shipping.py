"""Quantizing a finished model, and merging an adapter into it."""

import streamlit as st

from advisor.rules.adapter import ADAPTER_BYTES
from specs import METHODS, gib
from ui.learn.lessons import reference
from ui.learn.start import Start

QUANTIZATION = (
    (
        "Post-training quantization (PTQ)",
        "A trained model is rounded layer by layer; some methods look at a few hundred examples to choose the scales.",
        "Minutes to hours, no training.",
        "Almost nothing at 8 bits; more at 4 bits and below.",
        "[GPTQ](https://arxiv.org/abs/2210.17323), [AWQ](https://arxiv.org/abs/2306.00978)",
    ),
    (
        "Quantization-aware training (QAT)",
        "Training rounds the weights in every forward pass and passes gradients straight through.",
        "A training run.",
        "Recovers most of what PTQ loses where all weights are trained; beside LoRA it recovered nothing in our test.",
        "[Jacob 2017](https://arxiv.org/abs/1712.05877), [LLM-QAT](https://arxiv.org/abs/2305.17888)",
    ),
    (
        "QLoRA's NF4",
        "The frozen base is rounded once, without any data; the adapter learns on top in 16 or 32 bits.",
        "Seconds, while loading.",
        "The adapter makes up for most of it.",
        "[Dettmers 2023](https://arxiv.org/abs/2305.14314)",
    ),
)
MEASURED = (
    ("Not rounded", "39.47", "513 MiB"),
    ("INT8, bitsandbytes", "39.68", "210 MiB"),
    ("INT8, torchao", "39.79", "210 MiB"),
    ("NF4, bitsandbytes", "43.83", "165 MiB"),
    ("FP4, bitsandbytes", "53.25", "165 MiB"),
)
"""Measured with transformers 5.23.0 on two cores; docs/decisions/0215-quantized-after-training.md says how."""
MERGING = (
    (
        "Keep the adapter separate",
        "A few megabytes; many adapters share one base, and can be switched while serving.",
        "A little slower per token.",
    ),
    (
        "Merge (`merge_and_unload`)",
        "W becomes W + (lora_alpha / r) · B · A. No extra cost when serving.",
        "A full copy of the model for each task.",
    ),
    (
        "Merge after QLoRA",
        "Load the base model in 16 bits again and merge into that.",
        "The adapter was trained beside the rounded base, so answers can differ slightly.",
    ),
    (
        "Merge two adapters (`add_weighted_adapter`)",
        "A weighted sum of the changes of both.",
        "Works when they change different things; test the result.",
    ),
)


def show(begun: Start) -> None:
    """Show two ways to quantize and what merging means."""
    st.header("Quantize")
    reference.table(("Method", "How", "Effort", "Loss of quality", "Source"), QUANTIZATION, "Ways to quantize")
    st.markdown(_rounded(begun))
    reference.table(("Numbers", "Perplexity", "Files"), MEASURED, "A small model, rounded in several ways")
    st.caption(
        "SmolLM2-135M-Instruct on three passages of general text, in 32 bit before rounding; 108 MiB of each are its "
        "embeddings, which stay. torch 2.13.0, bitsandbytes 0.50.2, torchao 0.18.0, 2026-11-27. A model this small "
        "loses more than a large one."
    )
    st.markdown(
        "Quantization-aware training is not among the ways to train here. torchao rounds a frozen weight in the "
        "forward pass, and PEFT adds its adapter after that: the adapter then makes up for the rounding of the base, "
        "as it does under QLoRA, and not for that of their sum, which is what is rounded after merging."
    )
    st.header("Merge")
    reference.table(("What to do", "What you get", "What to know"), MERGING, "Ways to use an adapter")
    st.markdown(_of(begun))
    reference.sources(
        "PEFT documentation, Model merging, https://huggingface.co/docs/peft/developer_guides/model_merging"
    )


def _rounded(begun: Start) -> str:
    """Return how a run of the plan is rounded, and what it then takes about."""
    of = begun.situation
    sizes = f"{begun.name} takes {gib(2 * of.num_params)} in 16 bit and at least {gib(of.num_params // 2)} in 4 bit"
    if begun.plan.task_type != "CAUSAL_LM":
        return f"{sizes}. What a model for this task loses is not measured here."
    return (
        f"{sizes}. To see what your own run loses, choose *Quantize* in its tab *Share*, or run "
        "`python -m trainer quantize ID --to nf4`: both models read the rows that were not learned."
    )


def _of(begun: Start) -> str:
    """Return in a sentence what holds for the plan."""
    if not METHODS[begun.plan.method].trains_adapter:
        return f"The plan of {begun.name} trains all weights: there is no adapter to merge."
    base = gib(2 * begun.situation.num_params)
    merged = f"For {begun.name} the merged model is {base} in 16 bit for each task"
    plan, layers = begun.plan, begun.model.layers
    count = None if layers is None else layers.adapter_params(plan)
    if count is None:
        return f"{merged}."
    rank = f"r {plan.r} in " if METHODS[plan.method].has_rank else "in "
    return (
        f"{merged}; the adapter alone, {rank}{plan.adapter_dtype}, is {gib(ADAPTER_BYTES[plan.adapter_dtype] * count)}."
    )
