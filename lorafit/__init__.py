"""The doors for notebooks and agents: five functions, and the same as tools of an MCP server.

Command lines and pages share its lookups. It imports every package but ``ui``, and never torch, streamlit or a worker.
"""

import importlib
from typing import TYPE_CHECKING, Any

import specs as specs  # the first import: from here on, Ctrl-C is quiet

if TYPE_CHECKING:
    from lorafit.api import advise, compare, estimate, evaluate, train, watch

__all__ = ["advise", "compare", "estimate", "evaluate", "train", "watch"]


def __getattr__(name: str) -> Any:
    """Return a function of ``lorafit.api``, imported when it is first asked for: a second that not every door needs."""
    if name in __all__:
        return getattr(importlib.import_module("lorafit.api"), name)
    raise AttributeError(f"module 'lorafit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that a notebook completes."""
    return [*__all__]
