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
        "Recovers part of what PTQ loses at 4 bits and below.",
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
    st.header("Merge")
    reference.table(("What to do", "What you get", "What to know"), MERGING, "Ways to use an adapter")
    st.markdown(_of(begun))
    reference.sources(
        "PEFT documentation, Model merging, https://huggingface.co/docs/peft/developer_guides/model_merging"
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
