"""What the method decides about other fields: its learning rate, and the fields that it fixes or ignores."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from advisor import sources
from advisor.advice import Advice, Confidence, Rule, Source
from advisor.situation import Situation
from specs import METHODS, TASK_TYPES, FinetunePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The learning rate of a method that needs a different one from LoRA."""

    value: float
    range: tuple[float, float]
    why: str
    source: Source


RATES: Mapping[str, Rate] = {
    "ia3": Rate(
        value=5e-3,
        range=(1e-3, 1e-2),
        why="IA3's few vectors need large steps: 45.5% at 5e-3 and 31.1% at 1e-4 in PEFT's comparison",
        source=sources.PEFT_BENCHMARK.at("ia3/llama-3.2-3B-all-attn-5k-lr0.005 and ia3/llama-3.2-3B-default"),
    ),
    "prompt-tuning": Rate(
        value=1e-2,
        range=(1e-3, 3e-2),
        why="embeddings of virtual tokens need large steps: 23.4% at 1e-3 and 5.7% at 1e-4 in PEFT's comparison, and "
        "TRL starts at 1e-2",
        source=sources.PEFT_BENCHMARK.at("prompt_tuning; TRL, PEFT integration: 1e-2 to 3e-2"),
    ),
    "prefix-tuning": Rate(
        value=5e-3,
        range=(1e-3, 1e-2),
        why="virtual keys and values need large steps: 35.8% at 5e-3 and 18.6% at 1e-3 in PEFT's comparison",
        source=sources.PEFT_BENCHMARK.at("prefixtuning/llama-3.2-3B-lr_0.005_zero_init and -lr_0.001"),
    ),
}
"""Methods with their own learning rate, the same for any model and task."""


def within_method(rule: Rule) -> Rule:
    """Return a rule that applies only if the method uses its field, and that keeps what the method fixes."""

    def applies(plan: FinetunePlan) -> bool:
        used = METHODS[plan.method].uses(rule.field) and TASK_TYPES[plan.task_type].uses(rule.field)
        return used and rule.applies(plan)

    def decide(situation: Situation, plan: FinetunePlan) -> Advice:
        advice, method = rule.decide(situation, plan), METHODS[plan.method]
        fixed = method.preset.get(rule.field, advice.value)
        if fixed == advice.value:
            return advice
        title, _, url = method.source.rpartition(", ")
        return dataclasses.replace(
            advice,
            value=fixed,
            range=(fixed,),
            reason=f"{method.label} works only with {rule.field} {'on' if fixed else 'off'}. {advice.reason}",
            source=Source(title, url),
            confidence=Confidence.HIGH,
        )

    return dataclasses.replace(rule, applies=applies, decide=decide)
