"""The nouns of LoRAFit (model, GPU, method, plan, units, errors) and what every command line shares.

Every package may import it; it imports only the standard library.
"""

from specs.doors import interruption as interruption  # the first import: from here on, Ctrl-C is quiet
from specs.errors import CatalogError, DataError, LorafitError, PlanError, RunError, SpecError, TraceError
from specs.gpu import GpuSpec
from specs.methods import METHODS, Method
from specs.model import ModelSpec
from specs.plan import FinetunePlan
from specs.tasks import TASK_TYPES, TaskType
from specs.units import GIB, KIB, MIB, gib

__all__ = [
    "GIB",
    "KIB",
    "METHODS",
    "MIB",
    "TASK_TYPES",
    "CatalogError",
    "DataError",
    "FinetunePlan",
    "GpuSpec",
    "LorafitError",
    "Method",
    "ModelSpec",
    "PlanError",
    "RunError",
    "SpecError",
    "TaskType",
    "TraceError",
    "gib",
]
