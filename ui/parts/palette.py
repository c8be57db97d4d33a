"""One colour for each part of memory, run state and verdict, the same wherever it appears.

The hues are Paul Tol's bright scheme with tints for what belongs together (https://personal.sron.nl/~pault/); they
stay apart under deuteranopia, protanopia and tritanopia, and stand out from a light and a dark page alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """How one component of the memory is named, coloured and explained."""

    label: str
    color: str
    meaning: str


PARTS: Mapping[str, Part] = {
    "weights": Part("Weights", "#4477AA", "The base model's parameters, as they are stored on the device."),
    "quantization_constants": Part(
        "Quantization constants", "#66CCEE", "The scales that turn 4-bit or 8-bit weights back into numbers."
    ),
    "adapter": Part("Adapter", "#228833", "The LoRA matrices A and B of every target module."),
    "gradients": Part("Gradients", "#CCBB44", "One number for each trained parameter."),
    "optimizer_states": Part("Optimizer states", "#AA3377", "Adam keeps two more numbers for each trained parameter."),
    "activations": Part("Activations", "#EE6677", "What the forward pass keeps for the backward pass."),
    "logits": Part("Logits", "#F2A39C", "A score for every word of the vocabulary at every position, and the loss."),
    "workspace": Part("Workspace", "#8A8D93", "Short-lived buffers of the kernels, such as dequantized weights."),
    "cache": Part("Cache", "#B8BABF", "What PyTorch's allocator has reserved beyond what is in use."),
    "overhead": Part("Overhead", "#62656D", "What the device runtime itself takes, such as the CUDA context."),
}
"""Every part by the estimator's name, in the order of the stacked bars."""

VERDICT_COLORS: Mapping[str, str] = {"fits": "green", "tight": "orange", "does not fit": "red"}
VERDICT_ICONS: Mapping[str, str] = {
    "fits": ":material/check_circle:",
    "tight": ":material/error:",
    "does not fit": ":material/cancel:",
}

ACCENT = "#4477AA"
CAPACITY_LINE = "#EE6677"
NEUTRAL = "#8A8D93"
CURVES: tuple[str, ...] = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#8A8D93")


def part(name: str) -> Part:
    """Return how a component is shown; one that the table lacks keeps its own name in grey."""
    return PARTS.get(name, Part(name.replace("_", " ").capitalize(), NEUTRAL, ""))
