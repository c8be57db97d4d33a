"""Common textbook statements about fine-tuning that are wrong, and what is right."""

import streamlit as st

from advisor.levers import with_rank
from specs import METHODS
from ui.learn.lessons import reference
from ui.learn.start import Start
from ui.parts import prices, text

ROWS = (
    (
        "The LoRA paper recommends lora_alpha = 2 · r.",
        "The paper sets lora_alpha to the first r it tries and does not tune it. 2 · r is later practice, well "
        "supported at high rank.",
        "[Hu 2021, section 4.1](https://arxiv.org/abs/2106.09685), [Biderman 2024](https://arxiv.org/abs/2405.09673)",
    ),
    (
        "Larger models need a higher r.",
        "Rank depends on task and data. With all linear layers, r from 8 to 256 gave the same result on one model.",
        "[Dettmers 2023, section 4](https://arxiv.org/abs/2305.14314)",
    ),
    (
        "Keep r at 4 to 8 in QLoRA to save memory.",
        "Beside the weights r costs little: on all linear layers of a 7B model, doubling it from 8 to 16 took "
        "16.47 GB instead of 16.42. With an adapter and Adam in 32 bit it is 16 bytes for each number it adds.",
        "[Raschka 2023](https://lightning.ai/pages/community/lora-insights/)",
    ),
    (
        "q_proj and v_proj are enough.",
        "All linear layers are needed to match full fine-tuning; the feed-forward layers gain most.",
        "[Dettmers 2023, section 4](https://arxiv.org/abs/2305.14314), [Biderman 2024](https://arxiv.org/abs/2405.09673)",
    ),
    (
        "QLoRA needs a lower (or a higher) learning rate than LoRA.",
        "Recipes that publish both use one value for both: 2e-4, or 1e-4 for 33B and 65B.",
        "[artidoro/qlora, scripts](https://github.com/artidoro/qlora/tree/main/scripts)",
    ),
    (
        "Keep an effective batch of 128 to 256 tokens.",
        "The unit is wrong: batches are counted in sequences, and 8 to 32 of them are usual.",
        "[artidoro/qlora, scripts](https://github.com/artidoro/qlora/tree/main/scripts)",
    ),
    (
        "Double quantization is on by default.",
        "BitsAndBytesConfig's default is bnb_4bit_use_double_quant=False.",
        "[transformers, BitsAndBytesConfig](https://huggingface.co/docs/transformers/main_classes/quantization)",
    ),
    (
        "Double quantization saves 0.9 GB on a 7B model.",
        "It saves 0.373 bits per weight: 0.3 GB.",
        "[Dettmers 2023, section 3](https://arxiv.org/abs/2305.14314)",
    ),
    (
        "Calibration data is critical in QLoRA.",
        "NF4 needs none: the scales come from the weights themselves.",
        "[bitsandbytes in transformers](https://huggingface.co/docs/transformers/quantization/bitsandbytes)",
    ),
    (
        "A 65B model in 4 bits takes 16 GB and fits a 24 GB card.",
        "65 billion weights at half a byte are 30 GiB before anything else; the QLoRA paper trains it on 48 GB.",
        "[Dettmers 2023, abstract](https://arxiv.org/abs/2305.14314)",
    ),
    (
        "LoRA on a 7B model takes 28 GB and does not fit an RTX 4090.",
        "28 GB is the model in float32. In 16 bits its weights take 13 GiB and LoRA fits.",
        "Arithmetic; the Plan page shows it for your settings.",
    ),
    (
        "33B with LoRA fits 64 GB, 65B fits 128 GB.",
        "The 16-bit weights alone are 65 GB and 131 GB.",
        "[Dettmers 2023](https://arxiv.org/abs/2305.14314) and arithmetic; try it on the Plan page.",
    ),
    (
        "In symmetric INT8, scale = (max - min) / 255, so 2.5 becomes 157.",
        "157 overflows INT8. The symmetric scale is the largest magnitude over 127.",
        "[Nagel 2021, section 2](https://arxiv.org/abs/2106.08295)",
    ),
    (
        "To reduce forgetting, increase r.",
        "It is the other way round: a lower rank forgets less.",
        "[Biderman 2024](https://arxiv.org/abs/2405.09673)",
    ),
    (
        "OPT's attention module is called query_key_value.",
        "OPT has q_proj, k_proj, v_proj and out_proj; query_key_value belongs to BLOOM, Falcon and GPT-NeoX.",
        "[transformers, modeling_opt.py]"
        "(https://github.com/huggingface/transformers/blob/main/src/transformers/models/opt/modeling_opt.py)",
    ),
    (
        "RLVR is another name for RLAIF.",
        "RLVR uses rewards that a program verifies; RLAIF uses a model's judgement.",
        "[Lambert 2024](https://arxiv.org/abs/2411.15124)",
    ),
)


def show(begun: Start) -> None:
    """Show each statement beside the correction, with the source."""
    st.markdown("Statements from guides and course notes, and what the sources and plain arithmetic say instead.")
    if said := _rank(begun):
        st.markdown(said)
    reference.table(("Common claim", "What is true", "Source"), ROWS, "Textbook statements and their corrections")


def _rank(begun: Start) -> str:
    """Return what doubling the rank takes in the plan; empty where that is unknown."""
    plan, situation = begun.plan, begun.situation
    if not METHODS[plan.method].has_rank:
        return ""
    now, then = (
        prices.priced(situation.model, situation.as_priced(with_rank(plan, r)), situation.device)
        for r in (plan.r, 2 * plan.r)
    )
    more = text.size(then.used_bytes - now.used_bytes)
    return (
        f"What r takes depends on the number formats. In the plan of {text.plain(begun.name)}, "
        f"raising r from {plan.r} to {2 * plan.r} takes {more} more, on top of {text.size(now.used_bytes)}."
    )
