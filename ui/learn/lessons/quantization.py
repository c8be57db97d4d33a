"""Quantization of a real weight matrix of the demo model."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from specs import FinetunePlan, gib
from ui.drawing.palette import CURVES
from ui.learn.lessons import reference, weights
from ui.learn.quantize import SCHEMES, Array, Quantized, error
from ui.learn.start import Start
from ui.parts import exhibits
from ui.parts.writing import Columns

BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
MATRICES = {
    "Word embeddings": "model.embed_tokens.weight",
    "Attention, q_proj of layer 0": "model.layers.0.self_attn.q_proj.weight",
    "Feed-forward, down_proj of layer 29": "model.layers.29.mlp.down_proj.weight",
}


def show(begun: Start) -> None:
    """Show what each scheme does to the same weights, and what it costs the plan."""
    st.markdown(
        "Quantization stores each weight as one of a few values. A **block** of weights shares one constant, its "
        "scale: small blocks follow the weights closely, but their constants take memory too."
    )
    left, right = st.columns(2)
    chosen = left.selectbox("Weights", list(MATRICES), key="matrix", bind="query-params")
    block = right.select_slider("Block size", BLOCKS, 64, key="block", bind="query-params")
    matrix = weights.matrix(weights.demo(), MATRICES[chosen])
    weights_of = begun.situation.num_params
    results = {name: scheme.apply(matrix, block) for name, scheme in SCHEMES.items()}
    exhibits.table(
        {
            "Scheme": [f"**{scheme.label}**" for scheme in SCHEMES.values()],
            "Error": [f"{error(matrix, results[name]):.2%}" for name in SCHEMES],
            "Bits per weight": [f"{results[name].bits_per_weight:.3f}" for name in SCHEMES],
            begun.name: [gib(int(weights_of * results[name].bits_per_weight / 8)) for name in SCHEMES],
            "How": [scheme.summary for scheme in SCHEMES.values()],
        },
        name="quantization",
        alt="Error and size of each quantization scheme",
    )
    picked = st.selectbox(
        "Take a closer look at",
        list(SCHEMES),
        index=list(SCHEMES).index(_scheme(begun.plan)),
        format_func=lambda name: SCHEMES[name].label,
        key="scheme",
        bind="query-params",
    )
    first, second = st.columns(2)
    with first:
        exhibits.chart(
            values_chart(matrix, results[picked]),
            _counts({"before": matrix, "after": results[picked].restored}),
            name="quantized_values",
            alt="How often each weight occurs, before and after",
        )
    with second:
        exhibits.chart(
            errors_chart(matrix, results[picked]),
            _counts({"after_minus_before": results[picked].restored - matrix}),
            name="quantized_errors",
            alt="How large the errors are",
        )
    st.markdown(
        "Error is the root mean square of the difference over that of the weights. NF4's sixteen values are quantiles "
        "of a normal distribution, which is how trained weights are spread, so it beats even steps at the same size. "
        "At block size 64, double quantization needs 0.127 instead of 0.5 bits per weight for constants."
    )
    st.markdown(
        "The demo model was published with its linear layers already rounded to 4 bits in blocks of 32 with a zero "
        "point (Q4_1), and its embeddings to 8 bits (Q8_0). Choose a linear layer and block size 32: INT4 with zero "
        "point then loses almost nothing, because the weights lie on exactly that grid."
    )
    reference.sources(
        "Dettmers et al. 2023, QLoRA, sections 2 and 3, https://arxiv.org/abs/2305.14314 · Dettmers et al. "
        "2022, 8-bit Optimizers via Block-wise Quantization, https://arxiv.org/abs/2110.02861 · Nagel et al. 2021, A "
        "White Paper on Neural Network Quantization, section 3, https://arxiv.org/abs/2106.08295"
    )


def _scheme(plan: FinetunePlan) -> str:
    """Return the scheme that a plan quantizes with; NF4 where it does not quantize."""
    if plan.load_in_8bit:
        return "int8"
    if plan.load_in_4bit and plan.bnb_4bit_quant_type == "fp4":
        return "fp4"
    return "nf4-double" if plan.load_in_4bit and plan.bnb_4bit_use_double_quant else "nf4"


def _counts(arrays: dict[str, Array]) -> Columns:
    """Return how often numbers lie in each of a hundred ranges."""
    edges = np.histogram_bin_edges(np.concatenate([one.ravel() for one in arrays.values()]), 100)
    return {
        "from": edges[:-1].tolist(),
        "to": edges[1:].tolist(),
        **{name: np.histogram(one, edges)[0].tolist() for name, one in arrays.items()},
    }


def values_chart(matrix: Array, quantized: Quantized) -> go.Figure:
    """Return histograms of the weights before and after."""
    reach = float(np.quantile(np.abs(matrix), 0.999))
    edges = np.linspace(-reach, reach, 121)
    return _histogram(
        {"before": np.histogram(matrix, edges)[0], "after": np.histogram(quantized.restored, edges)[0]}, edges, "weight"
    )


def errors_chart(matrix: Array, quantized: Quantized) -> go.Figure:
    """Return a histogram of after minus before."""
    difference = quantized.restored - matrix
    reach = float(np.quantile(np.abs(difference), 0.999)) or 1e-9
    edges = np.linspace(-reach, reach, 81)
    return _histogram({"after minus before": np.histogram(difference, edges)[0]}, edges, "error")


def _histogram(counts: dict[str, np.ndarray], edges: np.ndarray, quantity: str) -> go.Figure:
    figure = go.Figure()
    for (name, heights), color in zip(counts.items(), CURVES, strict=False):
        figure.add_bar(
            x=((edges[1:] + edges[:-1]) / 2).round(6).tolist(),
            y=heights.tolist(),
            name=name,
            marker={"color": color, "line": {"width": 0}},
            opacity=0.75,
        )
    figure.update_layout(
        barmode="overlay",
        bargap=0,
        height=260,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis={"title": quantity},
        yaxis={"title": "weights"},
        legend={"orientation": "h", "y": 1.15},
    )
    return figure
