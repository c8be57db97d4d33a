"""Learning from preferences and rewards."""

import streamlit as st

from ui.learn.lessons import reference
from ui.learn.start import Start

ROWS = (
    (
        "SFT",
        "Examples of good answers.",
        "The policy",
        "Format, style, knowledge that can be shown.",
        "[Ouyang 2022, section 3](https://arxiv.org/abs/2203.02155)",
    ),
    (
        "RLHF",
        "Pairs of answers that people ranked.",
        "Policy, reward model, reference, critic",
        "Qualities that are easier to judge than to write.",
        "[Ouyang 2022](https://arxiv.org/abs/2203.02155)",
    ),
    (
        "RLAIF",
        "Pairs of answers that a model ranked.",
        "Same as RLHF",
        "Same as RLHF, when people are too slow or too expensive.",
        "[Bai 2022](https://arxiv.org/abs/2212.08073), [Lee 2023](https://arxiv.org/abs/2309.00267)",
    ),
    (
        "DPO",
        "Pairs of answers, no reward model.",
        "Policy, reference",
        "The same pairs, with a simple loss and no sampling during training.",
        "[Rafailov 2023](https://arxiv.org/abs/2305.18290)",
    ),
    (
        "RLVR",
        "Tasks whose answers a program can check.",
        "Policy, reference",
        "Mathematics, code, formats: the reward is a test, not an opinion.",
        "[Lambert 2024, section 6](https://arxiv.org/abs/2411.15124)",
    ),
)


def show(begun: Start) -> None:
    """Show what each method needs and when it helps."""
    st.markdown(
        "Supervised fine-tuning imitates answers. The methods below learn from judgements instead: which of two "
        "answers is better, or whether an answer is right."
    )
    own = "DPO" if begun.situation.task == "preference" else "SFT"
    rows = [(f"**{name}** ({begun.whose})" if name == own else name, *others) for name, *others in ROWS]
    reference.table(
        ("Method", "Learns from", "Models in memory", "When", "Source"), rows, "Ways to learn from preferences"
    )
    st.markdown(
        "With an adapter, the reference of DPO costs no second model: it is the same model with the adapter switched "
        "off. RLAIF and RLVR are sometimes confused: RLAIF asks a model for its opinion, "
        "RLVR runs a check that is right or wrong."
    )
    reference.sources(
        "The adapter as reference: TRL documentation, DPO Trainer, https://huggingface.co/docs/trl/dpo_trainer"
    )
