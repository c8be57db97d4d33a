"""The table of tasks that advisor, estimator and trainer share, by PEFT's task types: a new task is one entry here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from specs.adapters import ADAPTERS
from specs.errors import SpecError

TaskTypeName = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What an evaluation gives besides the loss: a share between 0 and 1, or a correlation between -1 and 1."""

    name: str
    """Its name in logs and stored runs."""
    label: str
    """The words used on screen."""
    meaning: str
    """What it says, in a sentence."""
    is_share: bool = True
    """Whether it is a share, and no correlation."""

    def shown(self, value: float) -> str:
        """Return a value as it is shown: a share in percent."""
        return f"{value:.1%}" if self.is_share else f"{value:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """What a model is trained to give out, and what follows from it."""

    name: TaskTypeName
    """PEFT's ``TaskType``, as in plans and on the command line."""
    label: str
    """The words used on screen."""
    pipeline: str
    """transformers' name of the pipeline that uses the result, which the Hub calls ``pipeline_tag``."""
    auto_class: str
    """The class of transformers that loads the model."""
    data: frozenset[str]
    """The kinds of data (``trainer.data.source.TASKS``) that it learns from."""
    has_head: bool
    """Whether new layers on top of the model are trained whole, besides the adapter."""
    writes: bool = False
    """Whether the model writes text; the others say something of a text that they read."""
    embeds: bool = False
    """Whether the model gives vectors, by which texts are compared."""
    multiplies_by_batch: bool = False
    """Whether the rows of a batch are each other's examples, so that a larger batch teaches more."""
    reads_in_parts: bool = False
    """Whether rows longer than ``max_length`` are read in overlapping parts and not truncated."""
    problem_type: str | None = None
    """transformers' word for how a head is trained, where it has one."""
    preset: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Plan fields that the task fixes; every plan of it has exactly these values."""
    unused: frozenset[str] = frozenset()
    """Plan fields that have no meaning for it."""
    peft_types: frozenset[str | None]
    """PEFT's types of the methods that can train it; None is full fine-tuning."""
    measures: tuple[Measure, ...] = ()
    """What an evaluation gives besides the loss."""
    source: str

    def uses(self, field_name: str) -> bool:
        """Return whether a plan field has a meaning for the task."""
        return field_name not in self.unused


_LANGUAGE = frozenset({"packing", "completion_only_loss", "loss"})
"""Fields that say how a language model reads its rows and which of their tokens it learns."""
# transformers 5.23 finds the last token of a text by its ids, which virtual tokens do not have.
_WITHOUT_VIRTUAL_TOKENS = frozenset({None, *(name for name, adapter in ADAPTERS.items() if adapter.on)})
_FIXED = MappingProxyType({"packing": False, "loss": "full"})
_OF_EMBEDDINGS = frozenset({"pooling_mode", "embedding_loss", "num_negatives", "scale"})
"""Fields that say how vectors of texts are made and compared."""

_ENTRIES = (
    TaskType(
        name="CAUSAL_LM",
        label="text generation",
        pipeline="text-generation",
        auto_class="AutoModelForCausalLM",
        data=frozenset({"answers", "text", "preference", "unpaired"}),
        has_head=False,
        writes=True,
        unused=_OF_EMBEDDINGS | {"num_labels"},
        peft_types=frozenset({None, *ADAPTERS}),
        source="https://huggingface.co/docs/transformers/tasks/language_modeling",
    ),
    TaskType(
        name="SEQ_CLS",
        label="text classification",
        pipeline="text-classification",
        auto_class="AutoModelForSequenceClassification",
        data=frozenset({"classification"}),
        has_head=True,
        problem_type="single_label_classification",
        preset=_FIXED,
        unused=_LANGUAGE | _OF_EMBEDDINGS,
        peft_types=_WITHOUT_VIRTUAL_TOKENS,
        measures=(
            Measure(
                name="accuracy", label="Accuracy", meaning="Share of the held-out texts whose class the model finds."
            ),
            Measure(
                name="f1",
                label="F1",
                meaning="On the held-out texts, the mean over all classes: a class that is never found counts as 0.",
            ),
        ),
        source="https://huggingface.co/docs/transformers/tasks/sequence_classification",
    ),
    TaskType(
        name="TOKEN_CLS",
        label="token classification",
        pipeline="token-classification",
        auto_class="AutoModelForTokenClassification",
        data=frozenset({"tags"}),
        has_head=True,
        preset=_FIXED,
        unused=_LANGUAGE | _OF_EMBEDDINGS,
        peft_types=_WITHOUT_VIRTUAL_TOKENS,
        measures=(
            Measure(
                name="f1",
                label="F1",
                meaning="On the held-out rows: an entity counts if its kind, its first and its last word are right.",
            ),
            Measure(name="precision", label="Precision", meaning="Share of the entities found that are in the data."),
            Measure(name="recall", label="Recall", meaning="Share of the entities in the data that are found."),
            Measure(name="accuracy", label="Accuracy", meaning="Share of the held-out words whose tag is right."),
        ),
        source="https://huggingface.co/docs/transformers/tasks/token_classification",
    ),
    TaskType(
        name="QUESTION_ANS",
        label="extractive question answering",
        pipeline="question-answering",
        auto_class="AutoModelForQuestionAnswering",
        data=frozenset({"extraction"}),
        has_head=True,
        reads_in_parts=True,
        # Where an answer begins, and where it ends.
        preset=MappingProxyType({**_FIXED, "num_labels": 2}),
        unused=_LANGUAGE | _OF_EMBEDDINGS | {"num_labels"},
        peft_types=_WITHOUT_VIRTUAL_TOKENS,
        measures=(
            Measure(
                name="exact_match",
                label="Exact match",
                meaning="Share of the held-out questions whose answer is found word for word; articles do not count.",
            ),
            Measure(
                name="f1", label="F1", meaning="Words that the answers found share with those in the data, on average."
            ),
        ),
        source="https://huggingface.co/docs/transformers/tasks/question_answering",
    ),
    TaskType(
        name="SEQ_2_SEQ_LM",
        label="text generation with an encoder and a decoder",
        pipeline="text2text-generation",
        auto_class="AutoModelForSeq2SeqLM",
        data=frozenset({"answers"}),
        has_head=False,
        writes=True,
        preset=_FIXED,
        unused=_LANGUAGE | _OF_EMBEDDINGS | {"num_labels"},
        peft_types=_WITHOUT_VIRTUAL_TOKENS,
        measures=tuple(
            Measure(name=name, label=label, meaning=f"{what} that the answers share with those in the data, as F1.")
            for name, label, what in (
                ("rouge1", "ROUGE-1", "Words"),
                ("rouge2", "ROUGE-2", "Pairs of words"),
                ("rougeL", "ROUGE-L", "The longest row of words"),
            )
        ),
        source="https://huggingface.co/docs/transformers/tasks/summarization",
    ),
    TaskType(
        name="FEATURE_EXTRACTION",
        label="text embeddings",
        pipeline="sentence-similarity",
        auto_class="AutoModel",
        data=frozenset({"related", "similarity"}),
        has_head=False,
        embeds=True,
        multiplies_by_batch=True,
        preset=_FIXED,
        # Batches are drawn so that no text occurs twice in one, in no other order.
        unused=_LANGUAGE | {"num_labels", "train_sampling_strategy"},
        peft_types=_WITHOUT_VIRTUAL_TOKENS - {"ADALORA"},
        measures=(
            Measure(
                name="accuracy",
                label="Found first",
                meaning="Share of the held-out texts to which, of all held-out texts, their own is the most alike.",
            ),
            Measure(
                name="mrr",
                label="MRR@10",
                meaning="On the held-out rows, one over the place at which the right text is found; beyond 10 it is 0.",
            ),
            Measure(
                name="spearman",
                label="Spearman",
                is_share=False,
                meaning="How far the held-out pairs, in order of likeness, are in the order of their scores: 1 is all.",
            ),
        ),
        source="https://sbert.net/docs/sentence_transformer/training_overview.html",
    ),
)

TASK_TYPES: Mapping[str, TaskType] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every task by its PEFT type."""


def require_trained_for(model: str, task_types: Collection[str], wanted: str) -> None:
    """Refuse a task that a model cannot be trained for.

    Args:
        model: Its name.
        task_types: The tasks that transformers trains such a model for; empty if they are not known.
        wanted: The task, one of ``TASK_TYPES``.

    Raises:
        SpecError: If it is another one.
    """
    if not task_types or wanted in task_types:
        return
    *most, last = [TASK_TYPES[name].label for name in task_types]
    can = f"{', '.join(most)} and {last}" if most else last
    rule = f"is trained for {can}, not for {TASK_TYPES[wanted].label}"
    raise SpecError(model, rule, None, "Choose another model, or other data")


def kind_for(kinds: Sequence[str], task_type: str) -> str:
    """Return what data counts as for a task: of all that it can be taken for, the first that the task learns from."""
    return next((kind for kind in kinds if kind in TASK_TYPES[task_type].data), kinds[0])


def task_type_of(kinds: Collection[str], task_types: Collection[str] = ()) -> TaskType:
    """Return the task that data is trained for.

    Args:
        kinds: What the data can be taken for (``trainer.data.source.TASKS``).
        task_types: The tasks that the model can be trained for, its own first; empty if they are not known.

    Of several the model's own decides, which is its first: a decoder that could also get a head for it writes the
    answers of a data set. A model that can be trained for none of them gets the data's first task, and is then refused
    for it.
    """
    fitting = {entry.name: entry for entry in _ENTRIES if not entry.data.isdisjoint(kinds)}
    return next((fitting[name] for name in task_types if name in fitting), next(iter(fitting.values())))
