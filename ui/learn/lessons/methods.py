"""Ways to fine-tune, from all weights down to a few vectors."""

import streamlit as st

from specs import METHODS
from ui.learn.lessons import decision, reference
from ui.learn.start import Start

ROWS = (
    (
        "Full fine-tuning",
        "All weights.",
        "100%",
        "A lot of new knowledge, and memory for 16 bytes per parameter with Adam in mixed precision.",
        "[Rajbhandari 2020, section 3](https://arxiv.org/abs/1910.02054)",
    ),
    (
        "LoRA",
        "Two thin matrices beside each linear layer.",
        "0.1 to 2%",
        "The default: one small file per task, merges into the model.",
        "[Hu 2021](https://arxiv.org/abs/2106.09685)",
    ),
    (
        "QLoRA",
        "LoRA on a base model in 4 bits.",
        "0.1 to 2%",
        "The model fits in 4 bits but not in 16; steps take longer.",
        "[Dettmers 2023](https://arxiv.org/abs/2305.14314)",
    ),
    (
        "DoRA",
        "LoRA on the direction of each weight; its magnitude is trained separately.",
        "same as LoRA",
        "As good as LoRA in PEFT's comparison, within its error; slower and larger in training.",
        "[Liu 2024](https://arxiv.org/abs/2402.09353)",
    ),
    (
        "rsLoRA",
        "LoRA scaled by alpha / sqrt(r).",
        "same as LoRA",
        "Any rank at one learning rate; the plans here let lora_alpha grow with sqrt(r), which is the same.",
        "[Kalajdzievski 2023](https://arxiv.org/abs/2312.03732)",
    ),
    (
        "LoRA+",
        "LoRA with a higher learning rate for B than for A.",
        "same as LoRA",
        "Faster early progress; one more number to choose.",
        "[Hayou 2024](https://arxiv.org/abs/2402.12354)",
    ),
    (
        "AdaLoRA",
        "LoRA that gives more rank to the layers that need it.",
        "same as LoRA",
        "A fixed parameter budget spread unevenly.",
        "[Zhang 2023](https://arxiv.org/abs/2303.10512)",
    ),
    (
        "Adapters",
        "Small bottleneck layers inserted into each block.",
        "0.5 to 8%",
        "Many tasks on one base model; they cannot be merged, and they slow down inference.",
        "[Houlsby 2019](https://arxiv.org/abs/1902.00751)",
    ),
    (
        "IA3",
        "One scaling vector for keys, values and feed-forward.",
        "about 0.01%",
        "Few examples, tiny files.",
        "[Liu 2022](https://arxiv.org/abs/2205.05638)",
    ),
    (
        "BitFit",
        "Only the biases.",
        "about 0.1%",
        "Models that have biases; most recent language models have none.",
        "[Ben Zaken 2021](https://arxiv.org/abs/2106.10199)",
    ),
    (
        "Prefix tuning",
        "Learned keys and values in front of every layer.",
        "about 0.1%",
        "Generation tasks; takes up part of the context.",
        "[Li and Liang 2021](https://arxiv.org/abs/2101.00190)",
    ),
    (
        "Prompt tuning",
        "Learned embeddings in front of the input.",
        "under 0.01%",
        "Very large models, where it comes close to full fine-tuning.",
        "[Lester 2021](https://arxiv.org/abs/2104.08691)",
    ),
)


def show(begun: Start) -> None:
    """Show the methods from most to fewest trained parameters."""
    st.markdown(
        "These methods differ in what they train, and therefore in memory, in the size of the result, and in whether "
        "it can be merged back into the model."
    )
    label = METHODS[begun.plan.method].label.partition(" (")[0]
    rows = [(f"**{name}** ({begun.whose})" if name == label else name, *others) for name, *others in ROWS]
    reference.table(("Method", "What is trained", "Share", "When", "Source"), rows, "Ways to fine-tune")
    decision.show(begun)
    reference.sources("Shares are from the papers' own experiments; they depend on rank, modules and model.")
