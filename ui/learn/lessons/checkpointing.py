"""Gradient checkpointing: computing activations twice instead of keeping them."""

import plotly.graph_objects as go
import streamlit as st

from advisor.rules.batch import CHECKPOINTING_COST
from ui.learn.lessons import reference
from ui.learn.start import Start
from ui.parts import exhibits, text


def show(begun: Start) -> None:
    """Show what is kept during one training step, with and without checkpointing."""
    st.markdown(
        "The backward pass needs the activations of the forward pass, in reverse order. Kept all at once, they are "
        "often the largest part of the memory. With **gradient checkpointing** only the input of each layer is kept; "
        "the rest of the layer is computed again when the backward pass reaches it."
    )
    left, right = st.columns(2)
    own = begun.model.num_hidden_layers
    layers = left.slider("Layers", min(2, own), max(80, own), own, key="ckpt_layers", bind="query-params")
    weight = right.slider(
        "Activations of a layer, as a multiple of its input",
        4,
        40,
        17,
        key="ckpt_weight",
        bind="query-params",
    )
    right.caption("About 34 bytes per token and hidden unit in 16 bit, without attention scores; the input takes 2.")
    kept, recomputed = profile(layers, weight, recompute=False), profile(layers, weight, recompute=True)
    exhibits.chart(
        picture(kept, recomputed),
        {"layers_passed": list(range(1, len(kept) + 1)), "kept": kept, "kept_with_checkpointing": recomputed},
        name="ckpt_chart",
        alt=f"Highest point {max(kept)} without and {max(recomputed)} with checkpointing, in layer inputs",
    )
    cells = st.columns(3)
    cells[0].metric("Peak without", f"{max(kept):,} layer inputs", border=True)
    cells[1].metric("Peak with", f"{max(recomputed):,} layer inputs", border=True)
    cells[2].metric("Saved", f"{1 - max(recomputed) / max(kept):.0%}", border=True)
    used = "uses it" if begun.plan.gradient_checkpointing else "does not use it"
    st.markdown(
        f"The price is {CHECKPOINTING_COST}. Where all weights are trained, a backward pass takes twice the arithmetic "
        "of a forward pass, so a step takes up to a third longer. Where the base model is frozen, it takes about as "
        "much as a forward pass, so a step takes up to a half longer. The weights, the optimizer states and the logits "
        f"take as much memory as before. The plan of {text.plain(begun.name)} {used}."
    )
    reference.sources(
        "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174 · "
        "Korthikanti et al. 2022, section 4 (34 bytes), https://arxiv.org/abs/2205.05198 · torchtune README, "
        "ablation on a 3B model (21%), https://github.com/pytorch/torchtune"
    )


def profile(layers: int, weight: int, *, recompute: bool) -> list[int]:
    """Return what is kept after each of ``layers`` forward and ``layers`` backward steps, in layer inputs."""
    each = 1 if recompute else weight
    forward = [each * (layer + 1) for layer in range(layers)]
    during = weight if recompute else 0
    backward = [each * left + during for left in range(layers, 0, -1)]
    return [*forward, *backward]


def picture(kept: list[int], recomputed: list[int]) -> go.Figure:
    """Return both profiles over one step."""
    figure = go.Figure()
    for name, values, color in (("all kept", kept, "#EE6677"), ("checkpointed", recomputed, "#4477AA")):
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=values,
            name=name,
            mode="lines",
            fill="tozeroy",
            line={"color": color, "shape": "hv"},
        )
    middle = len(kept) / 2
    figure.add_vline(x=middle + 0.5, line={"dash": "dot", "color": "#8A8D93"})
    figure.add_annotation(x=middle / 2, y=1.06, yref="paper", text="forward", showarrow=False)
    figure.add_annotation(x=middle * 1.5, y=1.06, yref="paper", text="backward", showarrow=False)
    figure.update_layout(
        height=300,
        margin={"l": 0, "r": 0, "t": 24, "b": 0},
        xaxis={"title": "layers passed", "fixedrange": True},
        yaxis={"title": "kept (layer inputs)", "fixedrange": True},
        legend={"orientation": "h", "y": -0.25},
    )
    return figure
