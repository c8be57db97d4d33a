"""The lessons of the Learn page: each shows one idea to play with, and its sources. A new lesson is one entry here.

Only the Learn page calls them; they import no other page.
"""

from collections.abc import Callable, Mapping

from ui.learn.lessons import (
    adapter,
    checkpointing,
    corrections,
    formats,
    methods,
    optimizers,
    preferences,
    quantization,
    shipping,
    targets,
)
from ui.learn.start import Start

LESSONS: Mapping[str, Callable[[Start], None]] = {
    "What LoRA does": adapter.show,
    "Target modules": targets.show,
    "Number formats": formats.show,
    "Quantization": quantization.show,
    "Optimizer states": optimizers.show,
    "Gradient checkpointing": checkpointing.show,
    "Ways to fine-tune": methods.show,
    "Learning from preferences": preferences.show,
    "Quantize and merge": shipping.show,
    "Textbook, corrected": corrections.show,
}
"""Every lesson by its title."""
