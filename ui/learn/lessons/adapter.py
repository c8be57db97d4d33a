"""What LoRA does: it trains B x A beside a frozen W."""

import plotly.graph_objects as go
import streamlit as st

from ui.learn.lessons import reference
from ui.learn.start import Start, beside
from ui.parts import exhibits, text

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ALPHAS = (1, 8, 16, 32, 64, 128, 256, 512)
SIZES = {
    "q_proj of SmolLM2-135M (576 x 576)": (576, 576),
    "down_proj of SmolLM2-135M (576 x 1,536)": (576, 1536),
    "q_proj of Llama-3.1-8B (4,096 x 4,096)": (4096, 4096),
    "k_proj of Llama-3.1-8B (1,024 x 4,096)": (1024, 4096),
    "up_proj of Llama-3.1-8B (14,336 x 4,096)": (14_336, 4096),
}
"""Weight matrices as (outputs, inputs); shapes from the models' config.json."""


def show(begun: Start) -> None:
    """Show the two trained matrices beside the frozen one, to scale."""
    st.markdown(
        "Full fine-tuning changes every number in a weight matrix **W**. LoRA freezes W and learns the change as a "
        "product of two thin matrices: **W + (lora_alpha / r) · B · A**. Only A and B are trained."
    )
    left, middle, right = st.columns([2, 1, 1])
    sizes = {**_own(begun), **SIZES}
    name = left.selectbox("Weight matrix", list(sizes), key="lora_matrix", bind="query-params")
    ranks, alphas = beside(RANKS, begun.plan.r), beside(ALPHAS, begun.plan.lora_alpha)
    rank = middle.select_slider("r, the width of B and A", ranks, begun.plan.r, key="lora_r", bind="query-params")
    alpha = right.select_slider(
        "lora_alpha, which scales B · A", alphas, begun.plan.lora_alpha, key="lora_a", bind="query-params"
    )
    rows, columns = sizes[name]
    full, trained = rows * columns, lora_params(rows, columns, rank)
    exhibits.chart(
        picture(rows, columns, rank),
        {"matrix": ["W", "B", "A"], "rows": [rows, rows, rank], "columns": [columns, rank, columns]},
        name="lora_picture",
        alt=f"W has {full:,} numbers; B and A together have {trained:,}.",
    )
    cells = st.columns(4)
    cells[0].metric("Numbers in W, frozen", text.count(full), border=True)
    cells[1].metric("Numbers in B and A, trained", text.count(trained), border=True)
    cells[2].metric("Trained share", f"{trained / full:.2%}", border=True)
    cells[3].metric("Scale of the update", f"{alpha / rank:.3g}", border=True)
    st.caption(f"The scale is lora_alpha / r; with use_rslora it is lora_alpha / sqrt(r) = {alpha / rank**0.5:.3g}.")
    st.markdown(
        "B starts at zero, so training starts from the unchanged model. Raising r adds numbers to train but lowers the "
        "scale; rsLoRA divides by the square root of r instead, which keeps high ranks learning. Under Adam, "
        "lora_alpha acts much like the learning rate: set it once, to 8 · √r (32 at r 16), and tune only the learning "
        "rate."
    )
    reference.sources(
        "Hu et al. 2021, LoRA, sections 4.1 and 4.2, https://arxiv.org/abs/2106.09685 · Kalajdzievski 2023, "
        "rsLoRA, https://arxiv.org/abs/2312.03732"
    )


def _own(begun: Start) -> dict[str, tuple[int, int]]:
    """Return the first linear layers of the plan's model by name and shape; none where they are not known."""
    layers = begun.model.layers.linear if begun.model.layers else ()
    first = {layer.name: layer for layer in reversed(layers) if not layer.left_out}
    return {
        f"{layer.name} of {begun.name} ({layer.out_features:,} x {layer.in_features:,})": (
            layer.out_features,
            layer.in_features,
        )
        for layer in reversed(first.values())
    }


def lora_params(rows: int, columns: int, rank: int) -> int:
    """Return the numbers in B (rows x r) and A (r x columns)."""
    return rank * (rows + columns)


def picture(rows: int, columns: int, rank: int) -> go.Figure:
    """Return W, B and A drawn to scale; a rank too thin to see is drawn about one pixel wide."""
    unit = max(rows, columns)
    gap = 0.16
    width, height, thin = columns / unit, rows / unit, max(rank / unit, 0.004)
    b_left = width + gap
    a_left = b_left + thin + 0.42
    figure = go.Figure()
    for label, x, w, h, color in (
        (f"W  {rows:,} x {columns:,}, frozen", 0.0, width, height, "#8A8D93"),
        (f"B  {rows:,} x {rank}", b_left, thin, height, "#228833"),
        (f"A  {rank} x {columns:,}", a_left, width, thin, "#AA3377"),
    ):
        figure.add_shape(type="rect", x0=x, x1=x + w, y0=0, y1=-h, fillcolor=color, line={"color": color, "width": 1})
        figure.add_annotation(x=x, y=0, text=label, showarrow=False, xanchor="left", yanchor="bottom", yshift=4)
    figure.add_annotation(x=width + gap / 2, y=-height / 2, text="+", showarrow=False, font={"size": 26})
    figure.update_xaxes(visible=False, range=[-0.01, a_left + max(width, 0.35)], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-height - 0.02, 0.1], scaleanchor="x", fixedrange=True)
    figure.update_layout(height=300, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    return figure
