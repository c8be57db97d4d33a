"""A small case of each task but text generation: rows, the plan, and what a run of it must show."""

import itertools
from dataclasses import dataclass, field

from tests.trainer.classified import BAD, GOOD, THINGS, rows_of_opinions


@dataclass(frozen=True)
class TaskCase:
    """What is trained, and what is expected of it."""

    task_type: str
    rows: list
    measures: set
    answers: str
    """A pattern of what the tuned model finds, told in words."""
    plan: dict = field(default_factory=dict)
    models: tuple = ("bert", "llama")
    whole: tuple = ()
    """Models that learn nothing with an adapter alone: their random table of words, tied to the head, is too small."""


def _sentences():
    """16 sentences with a good and a bad thing: their words, and where each thing begins."""
    for (good, bad), (one, other) in zip(
        itertools.cycle(itertools.product(GOOD[:2], BAD[:2])), itertools.permutations(THINGS[:5], 2), strict=False
    ):
        yield ["the", good, one, "and", "a", bad, other]


def tagged_rows():
    """20 rows of words whose tags mark what is good and what is bad."""
    tags = ["O", "B-GOOD", "I-GOOD", "O", "O", "B-BAD", "I-BAD"]
    return [{"tokens": words, "ner_tags": tags} for words in _sentences()]


def asked_rows():
    """20 questions for the good or the bad thing of a text, which is longer than half of what is read at once."""
    for number, words in enumerate(_sentences()):
        context = " ".join((*words, *words[:1] * 4, *words[3:4]))
        asked, answer = (("a good thing", words[1:3]), ("a bad thing", words[5:7]))[number % 2]
        said = " ".join(answer)
        answers = {"text": [said], "answer_start": [context.index(said)]}
        yield {"id": str(number), "title": "t", "context": context, "question": asked, "answers": answers}


def written_rows():
    """20 texts of which the good thing is to be written."""
    for words in _sentences():
        yield {"instruction": "a good thing", "input": " ".join(words), "output": " ".join(words[1:3])}


def related_rows():
    """48 pairs of texts that belong together: both say the same of a thing."""
    for word in (*GOOD, *BAD):
        for thing in THINGS:
            yield {"anchor": f"the {word} {thing}", "positive": f"a very {word} {thing}"}


CASES = {
    case.task_type: case
    for case in (
        TaskCase("SEQ_CLS", rows_of_opinions(), {"accuracy", "f1"}, r"(neg|pos) \d+\.\d%, (neg|pos) \d+\.\d%"),
        TaskCase(
            "TOKEN_CLS",
            tagged_rows(),
            {"accuracy", "f1", "precision", "recall"},
            r"nothing|.*\((GOOD|BAD)\)",
            plan={"num_labels": 5},
        ),
        TaskCase(
            "QUESTION_ANS",
            list(asked_rows()),
            {"exact_match", "f1"},
            r"[a-z ]*",
            plan={"max_length": 16},
            models=("bert", "deberta-v2"),
        ),
        TaskCase(
            "SEQ_2_SEQ_LM",
            list(written_rows()),
            {"rouge1", "rouge2", "rougeL"},
            r"[a-z ]*",
            plan={"max_length": 16},
            models=("t5", "bart"),
            whole=("bart",),
        ),
        TaskCase(
            "FEATURE_EXTRACTION",
            list(related_rows()),
            {"accuracy", "mrr"},
            r"-?\d\.\d\d",
            plan={"per_device_train_batch_size": 8},
        ),
    )
}
