"""Evidence about tasks other than text generation, and about how encoders such as BERT are trained for them."""

from collections.abc import Mapping

from advisor import sources
from advisor.advice import Advice, Confidence, Source
from advisor.situation import Situation
from specs import TASK_TYPES, FinetunePlan

ENCODER_RATES: Mapping[str, tuple[float, tuple[float, float], str, Source]] = {
    "full": (
        3e-5,
        (2e-5, 5e-5),
        "BERT's authors tuned all weights at 2e-5, 3e-5 and 5e-5",
        sources.BERT.at("appendix A.3"),
    ),
    "lora": (
        4e-4,
        (2e-4, 1e-3),
        "LoRA's authors trained RoBERTa at 4e-4 and 5e-4, and PEFT's guide takes 1e-3",
        sources.LORA.at("appendix D, table 9; PEFT, sequence classification with LoRA"),
    ),
}
"""Learning rates of encoders: all weights, and an adapter."""

ENCODER_DECODER_RATES: Mapping[str, tuple[float, tuple[float, float], str, Source]] = {
    "full": (
        1e-4,
        (3e-5, 3e-4),
        "transformers' guide takes 1e-4 to 3e-4 for T5, and BART's authors took 3e-5",
        sources.TRANSFORMERS.at("docs, T5, training; fairseq, examples/bart/README.summarization.md"),
    ),
    "lora": (
        1e-3,
        (3e-4, 1e-3),
        "PEFT's guide trains mT0 and T5 at 1e-3",
        sources.PEFT_LORA.at("examples/conditional_generation/peft_lora_seq2seq.ipynb"),
    ),
}
"""Learning rates of models with an encoder and a decoder: all weights, and an adapter."""

MANY_ROWS = 20_000
HELD_OUT_FROM_ROWS = 50
"""Rows from which a tenth of them, held out, says anything about a class."""

_ATTENTION = (("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"), ("q", "v"))
"""What architectures call the projections that LoRA's authors adapted."""


def task_type(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Train for what the data is for."""
    entry = TASK_TYPES[situation.task_type]
    return Advice(
        field="task_type",
        value=entry.name,
        range=(entry.name,),
        reason=f"The rows are for {entry.label}: PEFT's {entry.name}, transformers' {entry.auto_class}.",
        source=Source("transformers, tasks", entry.source),
        confidence=Confidence.HIGH,
    )


def num_labels(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Tell apart the classes, or the tags, that the data has."""
    what = "tags" if situation.task_type == "TOKEN_CLS" else "classes"
    return Advice(
        field="num_labels",
        value=situation.num_labels,
        range=(situation.num_labels,),
        reason=f"The data has {situation.num_labels} {what}: one output for each.",
        source=sources.TRANSFORMERS.at("PretrainedConfig.num_labels"),
        confidence=Confidence.HIGH,
    )


def encoder_targets(modules: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the projections of an encoder that LoRA's authors adapted; None where they are no modules of their own."""
    return next((names for names in _ATTENTION if set(names) <= set(modules)), None)


def num_train_epochs(situation: Situation) -> Advice:
    """Go through texts with a class three times; once where there are very many."""
    many = (situation.dataset_rows or 0) > MANY_ROWS
    why = "one pass shows each class often enough" if many else "BERT's authors took 2 to 4 passes"
    return Advice(
        field="num_train_epochs",
        value=1.0 if many else 3.0,
        range=(1.0, 4.0),
        reason=f"{situation.phrase('rows').capitalize()} of {situation.phrase('task')}: {why}.",
        source=sources.BERT.at("appendix A.3: 2, 3 and 4 epochs"),
    )


def eval_split(situation: Situation) -> Advice:
    """Hold out a tenth, since accuracy is measured on nothing else."""
    few = situation.dataset_rows is not None and situation.dataset_rows < HELD_OUT_FROM_ROWS
    why = "too few to hold any out" if few else "only rows that are held out, a tenth, tell how often a class is found"
    return Advice(
        field="eval_split",
        value=0.0 if few else 0.1,
        range=(0.0, 0.3),
        reason=f"{situation.phrase('rows').capitalize()} on {situation.gpu.name}: {why}.",
        source=sources.LLAMA_FACTORY.at("examples, val_size 0.1"),
        confidence=Confidence.LOW,
    )
