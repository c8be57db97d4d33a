"""Target modules on the real module tree of the plan's model."""

from collections import Counter

import streamlit as st

from specs import ModelSpec
from ui.learn.lessons import reference
from ui.learn.lessons.adapter import RANKS, lora_params
from ui.learn.start import Start, beside
from ui.parts import exhibits, text


def show(begun: Start) -> None:
    """Show how many parameters an adapter on each kind of module has."""
    st.markdown(
        "An adapter can be put on any linear layer. Older guides use only `q_proj` and `v_proj`; newer measurements "
        "favour **all linear layers**, because the feed-forward layers gain most."
    )
    matrices = modules(begun.model)
    if not matrices:
        st.caption("The linear layers of this model are not known.")
        return
    targets = begun.plan.target_modules
    own = [name for name in matrices if isinstance(targets, str) or name in targets]
    left, right = st.columns([3, 1])
    chosen = left.pills(
        "target_modules",
        list(matrices),
        selection_mode="multi",
        default=own,
        key="targets",
        bind="query-params",
        wrap=True,
    )
    rank = right.select_slider("r", beside(RANKS, begun.plan.r), begun.plan.r, key="targets_r", bind="query-params")
    sizes = {name: layers * lora_params(*shape, rank) for name, (shape, layers) in matrices.items()}
    exhibits.table(
        {
            "Module": [f"`{name}`" for name in matrices],
            "Layers": [str(layers) for _, layers in matrices.values()],
            "Shape": [f"{shape[0]:,} x {shape[1]:,}" for shape, _ in matrices.values()],
            "Frozen weights": [text.count(shape[0] * shape[1] * layers) for shape, layers in matrices.values()],
            "Adapter": [f"**{text.count(sizes[name])}**" if name in chosen else "none" for name in matrices],
        },
        name="targets",
        alt="The model's linear modules and the size of an adapter on each",
    )
    total = sum(sizes[name] for name in chosen)
    st.metric("Trained parameters", f"{total:,}", border=True, width=260)
    st.markdown(
        "The output head (`lm_head`) and the embeddings are left out. At the same adapter size, more modules with a "
        "lower rank beat fewer with a higher rank."
    )
    reference.sources(
        "shapes as transformers builds the model from its config.json · Dettmers et al. 2023, QLoRA, section 4, "
        "https://arxiv.org/abs/2305.14314 · Biderman et al. 2024, LoRA Learns Less and Forgets Less, "
        "https://arxiv.org/abs/2405.09673"
    )


def modules(model: ModelSpec) -> dict[str, tuple[tuple[int, int], int]]:
    """Return shape and number of each kind of linear module that an adapter is put on."""
    layers = [layer for layer in (model.layers.linear if model.layers else ()) if not layer.left_out]
    count = Counter[str]()
    for layer in layers:
        count[layer.name] += len(layer.paths)
    shapes = {layer.name: (layer.out_features, layer.in_features) for layer in layers}
    return {name: (shapes[name], count[name]) for name in sorted(shapes)}
