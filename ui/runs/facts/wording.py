"""The words of a run's page that depend on what the run trains for. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from specs import FinetunePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a run's page calls the outputs of its model."""

    answers: str
    """The tab with what the model says of the run's own prompts."""
    talk: str
    """The tab in which a person tries the model."""
    told: str = ""
    """What the outputs say, where they do not speak for themselves."""
    left: str
    right: str
    nothing: str
    """In place of an output that there is not."""
    none_answered: str
    answered_later: str
    answered_soon: str
    """While the run stops."""
    phase: str
    """What the run does after it has saved."""
    stopping: str
    loss: str
    """What the loss means."""
    asked: str = ""
    """What a person types to try a model that writes no text."""
    asked_of_two: str = ""
    """The same where a row of the data has two texts."""
    working: str = ""
    """What is said meanwhile."""


_WRITES = Words(
    answers="Before and after",
    talk="Chat",
    left="Base model",
    right="Tuned model",
    nothing="No answer.",
    none_answered="No prompts were answered in this run.",
    answered_later="When the run ends, the base model and the tuned model answer the same prompts.",
    answered_soon="Once it has saved, the run answers as many prompts as it can within 20 seconds, then stops.",
    phase="answering",
    stopping="Finishes the current step, saves, lets both models answer the questions, then stops.",
    loss="How surprised the model is by the answers it learns from; lower is better.",
)
_BY_TASK: Mapping[str, Words] = {
    "FEATURE_EXTRACTION": Words(
        answers="Before and after",
        talk="Compare texts",
        left="Base model",
        right="Tuned model",
        nothing="Not known.",
        none_answered="No texts were compared in this run.",
        answered_later="When the run ends, both models say how alike the two texts of a few held-out rows are.",
        told="How alike a model finds the two texts: the cosine of their vectors, 1 at most.",
        answered_soon="Once it has saved, the run compares as many texts as it can within 20 seconds, then stops.",
        phase="comparing",
        stopping="Finishes the current step, saves, compares a few texts, then stops.",
        loss="How hard the model finds it to tell which texts belong together; lower is better.",
        asked="Two texts, with an empty line between them",
        asked_of_two="Two texts, with an empty line between them",
        working="Comparing ...",
    ),
    "SEQ_CLS": Words(
        answers="Examples",
        talk="Classify",
        left="In the data",
        right="Found by the tuned model",
        nothing="Not known.",
        none_answered="No texts were classified in this run.",
        answered_later="When the run ends, the tuned model classifies a few texts that it has not learned.",
        answered_soon="Once it has saved, the run classifies as many texts as it can within 20 seconds, then stops.",
        phase="classifying",
        stopping="Finishes the current step, saves, classifies a few texts, then stops.",
        loss="How surprised the model is by the classes it learns; lower is better.",
        asked="Text",
        asked_of_two="Texts, with an empty line between them",
        working="Classifying ...",
    ),
    "QUESTION_ANS": Words(
        answers="Examples",
        talk="Ask",
        left="In the data",
        right="Found by the tuned model",
        nothing="Nothing.",
        none_answered="No texts were asked about in this run.",
        answered_later="When the run ends, the tuned model finds what is asked in a few texts that it has not learned.",
        answered_soon="Once it has saved, the run asks about as many texts as it can within 20 seconds, then stops.",
        phase="asking",
        stopping="Finishes the current step, saves, asks about a few texts, then stops.",
        loss="How surprised the model is by the places that it is to find; lower is better.",
        asked_of_two="A question, an empty line, and the text to find it in",
        working="Reading ...",
    ),
    "TOKEN_CLS": Words(
        answers="Examples",
        talk="Find",
        left="In the data",
        right="Found by the tuned model",
        nothing="Nothing.",
        none_answered="No texts were tagged in this run.",
        answered_later="When the run ends, the tuned model tags a few texts that it has not learned.",
        answered_soon="Once it has saved, the run tags as many texts as it can within 20 seconds, then stops.",
        phase="tagging",
        stopping="Finishes the current step, saves, tags a few texts, then stops.",
        loss="How surprised the model is by the tags it learns; lower is better.",
        asked="Text, with spaces between its words",
        working="Reading ...",
    ),
}


def of(plan: FinetunePlan) -> Words:
    """Return the words for a plan's task."""
    return _BY_TASK.get(plan.task_type, _WRITES)
