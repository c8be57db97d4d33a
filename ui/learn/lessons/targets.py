"""Target modules on the demo model's real module tree."""

import re
from collections import Counter

import streamlit as st

from ui.learn.lessons import reference, weights
from ui.learn.lessons.adapter import RANKS, lora_params
from ui.parts import text

_LAYER = re.compile(r"model\.layers\.\d+\.(?:self_attn|mlp)\.(\w+)\.weight")


def show() -> None:
    """Show how many parameters an adapter on each kind of module has."""
    st.markdown(
        "An adapter can be put on any linear layer. Older guides use only `q_proj` and `v_proj`; newer measurements "
        "favour **all linear layers**, because the feed-forward layers gain most."
    )
    matrices = modules(weights.shapes(weights.demo()))
    left, right = st.columns([3, 1])
    chosen = left.pills(
        "target_modules",
        list(matrices),
        selection_mode="multi",
        default=list(matrices),
        key="targets",
        bind="query-params",
        wrap=True,
    )
    rank = right.select_slider("r", RANKS, 16, key="targets_r", bind="query-params")
    sizes = {name: layers * lora_params(*shape, rank) for name, (shape, layers) in matrices.items()}
    st.table(
        {
            "Module": [f"`{name}`" for name in matrices],
            "Layers": [str(layers) for _, layers in matrices.values()],
            "Shape": [f"{shape[0]:,} x {shape[1]:,}" for shape, _ in matrices.values()],
            "Frozen weights": [text.count(shape[0] * shape[1] * layers) for shape, layers in matrices.values()],
            "Adapter": [f"**{text.count(sizes[name])}**" if name in chosen else "none" for name in matrices],
        },
        border="horizontal",
        hide_index=True,
        alt="The demo model's linear modules and the size of an adapter on each",
    )
    total = sum(sizes[name] for name in chosen)
    st.metric("Trained parameters", f"{total:,}", border=True, width=260)
    st.markdown(
        "The output head (`lm_head`) and the embeddings are left out: the embedding of this model is shared with the "
        "head. At the same adapter size, more modules with a lower rank beat fewer with a higher rank."
    )
    reference.sources(
        "shapes from the demo model's model.safetensors · Dettmers et al. 2023, QLoRA, section 4, "
        "https://arxiv.org/abs/2305.14314 · Biderman et al. 2024, LoRA Learns Less and Forgets Less, "
        "https://arxiv.org/abs/2405.09673"
    )


def modules(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, int], int]]:
    """Return shape and number of each kind of linear module in the layers."""
    found = [(match[1], shape) for name, shape in shapes.items() if (match := _LAYER.fullmatch(name))]
    layers = Counter(name for name, _ in found)
    return {name: ((shape[0], shape[1]), layers[name]) for name, shape in sorted(dict(found).items())}
