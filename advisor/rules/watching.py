"""Evidence about the order of rows and about the use of evaluations and metrics."""

from advisor import sources
from advisor.advice import Advice, Confidence
from advisor.situation import Situation
from specs import FinetunePlan


def train_sampling_strategy(situation: Situation, plan: FinetunePlan) -> Advice:
    """Batch rows of similar length, unless they are packed or come in pairs."""
    value = "random" if plan.packing or situation.task == "preference" else "group_by_length"
    return Advice(
        field="train_sampling_strategy",
        value=value,
        range=("random", "group_by_length"),
        reason=f"For {situation.phrase('task')}: "
        + ("rows of similar length in one batch need little padding." if value != "random" else "nothing to group."),
        source=sources.TRANSFORMERS.at("train_sampling_strategy"),
        confidence=Confidence.MEDIUM,
    )


def load_best_model_at_end(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Keep the best weights if there are evaluations to tell."""
    value = plan.eval_split > 0
    return Advice(
        field="load_best_model_at_end",
        value=value,
        range=(True, False) if value else (False,),
        reason=f"eval_split {plan.eval_split:g}: "
        + ("the evaluation loss tells which weights are best." if value else "there are no evaluations to compare."),
        source=sources.TRANSFORMERS.at("load_best_model_at_end"),
        confidence=Confidence.HIGH,
    )


def early_stopping_patience(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Let the schedule end the run: the best weights are kept anyway."""
    return Advice(
        field="early_stopping_patience",
        value=None,
        range=(1, 10),
        reason=f"A run with num_train_epochs {plan.num_train_epochs:g} is short, and the rate falls until its end.",
        source=sources.TRANSFORMERS.at("EarlyStoppingCallback"),
        confidence=Confidence.LOW,
    )


def report_to(_situation: Situation, plan: FinetunePlan) -> Advice:
    """Send nothing anywhere."""
    return Advice(
        field="report_to",
        value="none",
        range=("none", "tensorboard", "wandb", "trackio"),
        reason=f"The {plan.method} run is plotted here and logged for TensorBoard; nothing leaves this machine.",
        source=sources.TRANSFORMERS.at("report_to"),
        confidence=Confidence.HIGH,
    )
