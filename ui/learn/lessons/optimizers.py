"""What each optimizer keeps for every trained parameter."""

import plotly.graph_objects as go
import streamlit as st

from specs import GIB, gib
from ui.learn.lessons import reference
from ui.learn.start import Start
from ui.parts import exhibits, text

_ADAM = "https://arxiv.org/abs/1711.05101"
_EIGHT_BITS = "https://arxiv.org/abs/2110.02861"
_LION = "https://arxiv.org/abs/2302.06675"
_PAPERS = {
    "adamw_torch": _ADAM,
    "adamw_8bit": _EIGHT_BITS,
    "paged_adamw_8bit": _EIGHT_BITS,
    "paged_adamw_32bit": _ADAM,
    "lion_32bit": _LION,
    "lion_8bit": _LION,
    "sgd": "https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html",
}
"""Where each optimizer is defined."""

STATES: dict[str, tuple[float, str]] = {
    "adamw_torch": (8.0, "Running means of gradient and squared gradient, 4 bytes each."),
    "adamw_8bit": (2.0 + 8 / 256, "The same two means in 8 bits, with a 4-byte constant per 256 values."),
    "paged_adamw_8bit": (2.0 + 8 / 256, "The same in 8 bits, moved to RAM by the driver when the GPU is full."),
    "paged_adamw_32bit": (8.0, "The same in 32 bits, moved to RAM by the driver when the GPU is full."),
    "lion_32bit": (4.0, "One running mean, 4 bytes."),
    "lion_8bit": (1.0 + 4 / 256, "One running mean in 8 bits."),
    "sgd": (0.0, "Nothing, if used without momentum."),
}
"""Bytes for each trained float32 parameter, and why: torch.optim.AdamW and bitsandbytes 0.50.2 (optim.optimizer,
block size 256)."""


def show(begun: Start) -> None:
    """Show the optimizer states of full fine-tuning and of an adapter side by side."""
    st.markdown(
        "Adam remembers two numbers for each parameter that it trains. In full fine-tuning that is more than the "
        "model itself; in LoRA it is next to nothing. This is why an 8-bit optimizer rescues full fine-tuning and "
        "hardly matters for an adapter."
    )
    left, right = st.columns(2)
    own, trained = _own(begun)
    model = left.select_slider(
        "Model parameters (billions)",
        sorted({*(0.135, 1, 3, 8, 14, 32, 70), own}),
        own,
        key="optim_model",
        bind="query-params",
    )
    adapter = right.select_slider(
        "Adapter parameters (millions)",
        sorted({*(1, 5, 10, 20, 42, 84, 168, 336), trained}),
        trained,
        key="optim_adapter",
        bind="query-params",
    )
    sizes = {name: (int(model * 1e9 * each), int(adapter * 1e6 * each)) for name, (each, _) in STATES.items()}
    exhibits.chart(
        picture({name: full for name, (full, _) in sizes.items()}),
        {"optim": list(sizes), "bytes_full": [full for full, _ in sizes.values()]},
        name="optim_chart",
        alt=f"Full fine-tuning with adamw_torch keeps {gib(sizes['adamw_torch'][0])} of states.",
    )
    exhibits.table(
        {
            "optim": [f"[`{name}`]({_PAPERS[name]}){_mark(begun, name)}" for name in STATES],
            "Bytes per weight": [f"{each:.3g}" for each, _ in STATES.values()],
            f"Full, {text.count(model * 1e9)}": [gib(sizes[name][0]) for name in STATES],
            f"Adapter, {text.count(adapter * 1e6)}": [gib(sizes[name][1]) for name in STATES],
            "What is kept": [why for _, why in STATES.values()],
        },
        name="optimizers",
        alt="Optimizer states by optimizer",
    )
    reference.sources(
        "Kingma and Ba 2015, Adam, https://arxiv.org/abs/1412.6980 · Loshchilov and Hutter 2019, AdamW, "
        "https://arxiv.org/abs/1711.05101 · Dettmers et al. 2022, 8-bit Optimizers, "
        "https://arxiv.org/abs/2110.02861 · Chen et al. 2023, Lion, https://arxiv.org/abs/2302.06675 · bitsandbytes "
        "0.50.2, optim.optimizer"
    )


def _own(begun: Start) -> tuple[float, float]:
    """Return the plan's parameters in billions, and those of its adapter in millions, to three digits."""
    trained = begun.situation.lora_params(begun.plan.r)
    return float(f"{begun.situation.num_params / 1e9:.3g}"), float(f"{trained / 1e6:.3g}")


def _mark(begun: Start, name: str) -> str:
    return f" ({begun.whose})" if begun.plan.optim.removesuffix("_fused") == name else ""


def picture(sizes: dict[str, int]) -> go.Figure:
    """Return bars of bytes by optimizer."""
    figure = go.Figure(
        go.Bar(
            x=[size / GIB for size in sizes.values()],
            y=list(sizes),
            orientation="h",
            marker={"color": "#AA3377"},
            customdata=[gib(size) for size in sizes.values()],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
        )
    )
    figure.update_layout(
        height=60 + 28 * len(sizes),
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        xaxis={"ticksuffix": " GiB", "fixedrange": True},
        yaxis={"autorange": "reversed", "fixedrange": True},
    )
    return figure
