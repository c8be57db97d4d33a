"""How a method is chosen, drawn as a flowchart with the numbers of one case."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from advisor import advise
from advisor.tree import Question, questions
from ui.learn.start import Start
from ui.parts import prices, text


def show(begun: Start) -> None:
    """Draw the questions for the model and the card of a plan."""
    situation = replace(begun.situation, pins={})
    result = advise(situation, price=lambda plan: prices.priced(situation.model, plan, situation.device))
    asked = questions(situation, result)
    st.markdown(f"**How the method is chosen**, for {text.plain(situation.model.name)} on {situation.gpu.name}:")
    outcome = next((question.outcome for question in asked if question.outcome), "")
    st.mermaid_chart(flowchart(asked), alt=f"The questions that lead to {outcome}")


def flowchart(asked: Sequence[Question]) -> str:
    """Return the questions that lead to a method in Mermaid's language."""
    lines = ["flowchart LR"]
    for number, question in enumerate(asked):
        answer = "yes" if question.answer else "no"
        lines.append(f'q{number}["{_literal(question.text)}<br/>{_literal(question.detail)}"]')
        if question.outcome:
            lines.append(f'q{number} -- {answer} --> t{number}(["{_literal(question.outcome)}"])')
        if number + 1 < len(asked):
            lines.append(f"q{number} -- {'otherwise' if question.outcome else answer} --> q{number + 1}")
    return "\n".join(lines)


def _literal(words: str) -> str:
    """Return words without the characters that Mermaid would interpret."""
    return "".join(sign for sign in words if sign not in '"<>{}[]()|;#`')
