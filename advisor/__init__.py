"""Recommended hyperparameters for a model, GPU, data and task, each with reason, source and confidence.

Command lines and pages call it. It is pure: it imports only specs, gets the function that prices a plan as an argument,
and never imports torch, streamlit or anything that reads files.
"""

import specs as specs  # the first import: from here on, Ctrl-C is quiet
from advisor.advice import Advice, Caution, Confidence, Source
from advisor.advise import Recommendation, advise
from advisor.by_rule import ByRule, by_rule
from advisor.situation import GOALS, TASKS, Situation

__all__ = [
    "GOALS",
    "TASKS",
    "Advice",
    "ByRule",
    "Caution",
    "Confidence",
    "Recommendation",
    "Situation",
    "Source",
    "advise",
    "by_rule",
]
