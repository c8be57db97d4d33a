"""Evidence about embeddings: how vectors are made and compared, how many at once, and how they are trained."""

from collections.abc import Mapping

from advisor import sources
from advisor.advice import Advice, Confidence, Source
from advisor.situation import Situation
from specs import FinetunePlan
from specs.fields import EmbeddingLoss

RATES: Mapping[str, tuple[float, tuple[float, float], str, Source]] = {
    "full": (
        2e-5,
        (5e-6, 5e-5),
        "sentence-transformers' guide trains all weights at 2e-5",
        sources.SBERT.at("training arguments"),
    ),
    "lora": (
        1e-4,
        (2e-5, 2e-4),
        "E5-Mistral's adapter was trained at 1e-4; sentence-transformers' example takes 2e-5 with batches of 1,024",
        sources.E5_MISTRAL.at("section 4.1; sentence-transformers, examples/training/peft"),
    ),
}
"""Learning rates of embeddings: all weights, and an adapter."""

USUAL_BATCH, CPU_BATCH, LEAST_BATCH = 128, 8, 16
LARGEST_BATCH = 1024
STEPS_PER_EPOCH = 20
"""Steps that one pass over the data should still have: beyond, a larger batch takes away from them."""
MANY_ROWS = 20_000
MOST_HELD_OUT = 1_000
HELD_OUT_FROM_ROWS = 50


def usual_batch(situation: Situation) -> int:
    """Return how many rows should be compared with each other, as a power of two."""
    if situation.gpu.is_cpu:
        return CPU_BATCH
    rows = situation.dataset_rows or USUAL_BATCH * STEPS_PER_EPOCH
    fitting = max(LEAST_BATCH, min(USUAL_BATCH, rows // STEPS_PER_EPOCH))
    return 1 << (fitting.bit_length() - 1)


def batch_size(situation: Situation, plan: FinetunePlan) -> Advice:
    """Propose as many rows as are worth comparing; the search lowers it until the plan fits."""
    value = usual_batch(situation)
    wrong = value * (1 + plan.num_negatives) - 1
    return Advice(
        field="per_device_train_batch_size",
        value=value,
        range=(plan.least_batch_size, max(value, LARGEST_BATCH)),
        reason=f"On {situation.gpu.name} with {situation.phrase('num_gpus')}, goal {situation.phrase('goal')}: "
        f"among {value} rows each text is compared with {wrong:,} wrong ones; more rows at once teach more.",
        source=sources.SBERT_LOSSES.at("MultipleNegativesRankingLoss: larger batches, better results"),
    )


def accumulation(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Accumulate nothing: rows are compared within one forward pass only."""
    return Advice(
        field="gradient_accumulation_steps",
        value=1,
        range=(1, 8),
        reason=f"Accumulated passes of {plan.per_device_train_batch_size} rows are not compared with each other: they "
        "add no wrong texts. More than fits takes GradCache (CachedMultipleNegativesRankingLoss), which runs here do "
        "not have yet.",
        source=sources.GRAD_CACHE.at("section 3"),
        confidence=Confidence.HIGH,
    )


def pooling_mode(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Keep the pooling that a model was made with; else the mean, or the last token of a decoder."""
    found = situation.model.embedding
    own = found.pooling_mode if found else ""
    value = own or ("mean" if situation.model.is_encoder else "lasttoken")
    why = "the folder of the model says so, and another would waste what it has learned"
    if not own:
        why = "each token sees all others" if value == "mean" else "only the last token has seen all others"
    return Advice(
        field="pooling_mode",
        value=value,
        range=(value,) if own else ("mean", "cls", "lasttoken"),
        reason=f"{situation.model.model_type}: {why}.",
        source=sources.SBERT.at("models, Pooling; 1_Pooling/config.json"),
        confidence=Confidence.HIGH if own else Confidence.MEDIUM,
    )


def embedding_loss(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Follow the data: scores are learned in their order, matches against all other texts of the batch."""
    value: EmbeddingLoss = "CoSENTLoss" if situation.has_scores else "MultipleNegativesRankingLoss"
    how = {True: "a score for two texts is learned by its order", False: "a text is found among wrong ones"}
    return Advice(
        field="embedding_loss",
        value=value,
        range=(value,),
        reason=f"{situation.phrase('rows').capitalize()} of {situation.phrase('task')}: {how[situation.has_scores]}.",
        source=sources.SBERT.at("loss overview"),
        confidence=Confidence.HIGH,
    )


def num_negatives(situation: Situation, _plan: FinetunePlan) -> Advice:
    """Read the wrong texts that every row has."""
    value = 0 if situation.has_scores else situation.num_negatives
    return Advice(
        field="num_negatives",
        value=value,
        range=(0, value) if value else (0,),
        reason=f"{situation.phrase('rows').capitalize()}: each has {value} wrong texts beside the right one; each of "
        "those takes as much memory as the right one.",
        source=sources.SBERT_LOSSES.at("MultipleNegativesRankingLoss: n-tuples"),
        confidence=Confidence.HIGH,
    )


def scale(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Take the default, a temperature of 0.05."""
    return Advice(
        field="scale",
        value=20.0,
        range=(10.0, 100.0),
        reason=f"{plan.embedding_loss}: 20, a temperature of 0.05, is the default; 10 to 100 are usual.",
        source=sources.SBERT_LOSSES.at("MultipleNegativesRankingLoss, scale"),
        confidence=Confidence.HIGH,
    )


def num_train_epochs(situation: Situation) -> Advice:
    """Go through pairs of texts once; a few times where there are few."""
    many = situation.dataset_rows is None or situation.dataset_rows > MANY_ROWS
    why = "sentence-transformers' examples take one pass" if many else "few rows make few steps, so three passes"
    return Advice(
        field="num_train_epochs",
        value=1.0 if many else 3.0,
        range=(1.0, 4.0),
        reason=f"{situation.phrase('rows').capitalize()} of {situation.phrase('task')}: {why}.",
        source=sources.SBERT.at("training arguments; examples/training/peft, 1 epoch"),
    )


def eval_split(situation: Situation) -> Advice:
    """Hold out a tenth, at most 1,000 rows: among more texts the right one is harder to find."""
    rows = situation.dataset_rows
    few = rows is not None and rows < HELD_OUT_FROM_ROWS
    share = 0.1 if rows is None else min(0.1, MOST_HELD_OUT / rows)
    why = "too few to hold any out" if few else "only held-out rows tell how well a text is found among others"
    return Advice(
        field="eval_split",
        value=0.0 if few else float(f"{share:.2g}"),
        range=(0.0, 0.3),
        reason=f"{situation.phrase('rows').capitalize()} on {situation.gpu.name}: {why}.",
        source=sources.SBERT.at("evaluator"),
        confidence=Confidence.LOW,
    )
