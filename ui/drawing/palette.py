"""One colour for each part of the memory and each verdict, the same everywhere.

The hues are Paul Tol's bright scheme, with tints for related parts (https://personal.sron.nl/~pault/). They remain
distinct under deuteranopia, protanopia and tritanopia, and stand out on light and dark pages alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """The name, colour and explanation of one component of the memory."""

    label: str
    color: str
    meaning: str


PARTS: Mapping[str, Part] = {
    "weights": Part("Weights", "#4477AA", "The base model's parameters, as stored on the device."),
    "quantization_constants": Part(
        "Quantization constants", "#66CCEE", "The scales that turn 4-bit or 8-bit weights back into numbers."
    ),
    "adapter": Part("Adapter", "#228833", "The parameters that the adapter adds, such as LoRA's matrices A and B."),
    "gradients": Part("Gradients", "#CCBB44", "One number per trained parameter."),
    "optimizer_states": Part(
        "Optimizer states", "#AA3377", "What the optimizer remembers; Adam keeps two numbers per trained parameter."
    ),
    "activations": Part("Activations", "#EE6677", "What the forward pass keeps for the backward pass."),
    "logits": Part("Logits", "#F2A39C", "A score for every token of the vocabulary at every position, and the loss."),
    "workspace": Part("Workspace", "#8A8D93", "Short-lived buffers of the kernels, such as dequantized weights."),
    "cache": Part("Cache", "#B8BABF", "Memory that PyTorch's allocator has reserved but does not use."),
    "overhead": Part("Overhead", "#62656D", "What the device runtime itself takes, such as the CUDA context."),
}
"""Every part by the estimator's name, in the order of the stacked bars."""

VERDICT_COLORS: Mapping[str, str] = {"fits": "green", "tight": "orange", "does not fit": "red"}
VERDICT_ICONS: Mapping[str, str] = {
    "fits": ":material/check_circle:",
    "tight": ":material/error:",
    "does not fit": ":material/cancel:",
}

SIGNS = (
    f":green[{VERDICT_ICONS['fits']}] fits. :orange[{VERDICT_ICONS['tight']}] tight: fits, but not if the run takes as "
    f"much as the likely range allows. :red[{VERDICT_ICONS['does not fit']}] does not fit."
)
"""What each verdict's sign and colour stand for."""

ACCENT = "#4477AA"
CAPACITY_LINE = "#EE6677"
NEUTRAL = "#8A8D93"
CURVES: tuple[str, ...] = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#8A8D93")


def part(name: str) -> Part:
    """Return how a component is shown; one missing from the table keeps its own name, in grey."""
    return PARTS.get(name, Part(name.replace("_", " ").capitalize(), NEUTRAL, ""))
