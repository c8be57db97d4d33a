"""Where the estimator, the evidence or the textbook itself contradicts the textbook's plan, with numbers."""

from collections.abc import Iterator

from advisor import sources
from advisor.advice import Caution, Estimate, spelled
from advisor.rules import evidence
from advisor.rules.textbook import Row, decisions, row
from advisor.situation import Situation
from specs import GIB, METHODS, FinetunePlan, gib


def disagreements(situation: Situation, plan: FinetunePlan, estimate: Estimate) -> tuple[Caution, ...]:
    """Return every objection to the textbook's plan."""
    return (
        *_by_memory(situation, plan, estimate, row(situation)),
        *_by_matrix(situation, plan),
        *_by_evidence(situation, plan),
    )


def _by_memory(situation: Situation, plan: FinetunePlan, estimate: Estimate, entry: Row) -> Iterator[Caution]:
    if estimate.used_bytes > situation.available_bytes:
        yield Caution(
            "method",
            f"Row {entry.size} with {METHODS[plan.method].label} does not fit: it uses "
            f"{gib(estimate.used_bytes)} of {situation.phrase('memory')} on {situation.gpu.name}.",
            sources.ESTIMATE,
        )
    if situation.gpu.memory_bytes * situation.num_gpus / GIB < entry.memory_gib[0]:
        yield Caution(
            "method",
            f"The table has no row for {entry.size} under {entry.memory_gib[0]:g} GB; this row is the nearest.",
            sources.TEXTBOOK,
        )


def _by_matrix(situation: Situation, plan: FinetunePlan) -> Iterator[Caution]:
    for decision in decisions(situation):
        if plan.method not in decision.methods:
            yield Caution(
                "method",
                f"The textbook's own decision matrix says {decision.answer} for {decision.given}, but its table "
                f"says {METHODS[plan.method].label}.",
                sources.TEXTBOOK.at("decision matrix"),
            )


def _by_evidence(situation: Situation, plan: FinetunePlan) -> Iterator[Caution]:
    for rule in evidence.RULES:
        if rule.field in situation.pins or not rule.applies(plan):
            continue
        advice, value = rule.decide(situation, plan), getattr(plan, rule.field)
        if not advice.accepts(value):
            yield Caution(
                rule.field,
                f"The textbook says {spelled(value)}, the evidence says {spelled(advice.value)}: {advice.reason}",
                advice.source,
            )
