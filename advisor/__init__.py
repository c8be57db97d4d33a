"""Recommended hyperparameters for a model, card, data and task, each with reason, source and confidence.

Doors and pages call it. It is pure: it imports specs alone, is handed what prices a plan, and never imports torch,
streamlit or whatever reads files.
"""

from advisor.advice import Advice, Caution, Confidence, Source
from advisor.advise import Recommendation, advise
from advisor.situation import GOALS, TASKS, Situation

__all__ = [
    "GOALS",
    "TASKS",
    "Advice",
    "Caution",
    "Confidence",
    "Recommendation",
    "Situation",
    "Source",
    "advise",
]
