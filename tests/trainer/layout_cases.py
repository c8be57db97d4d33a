"""One small file for each layout that can be trained, with what a person says about it."""

import csv
import io
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A file of rows, and what a person says about it."""

    name: str
    rows: object
    """Rows as objects, or the text of the file."""
    options: dict = field(default_factory=dict)
    """Arguments of the ``DataSource``."""

    def write(self, folder):
        path = folder / self.name
        text = self.rows if isinstance(self.rows, str) else "\n".join(map(json.dumps, self.rows))
        path.write_text(text, encoding="utf-8")
        return path


NUMBERS = ("one", "two", "three", "four")
TOOLS = [
    {
        "type": "function",
        "function": {"name": "count", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
]


def chat(number, *more):
    return [
        {"role": "user", "content": f"What is {number}?"},
        {"role": "assistant", "content": f"It is {number}."},
        *more,
    ]


def called(number):
    call = {"type": "function", "function": {"name": "count", "arguments": {"n": len(number)}}}
    return [
        {"role": "user", "content": f"Count {number}."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "count", "content": str(len(number))},
        {"role": "assistant", "content": f"{number} has {len(number)}."},
    ]


def table(rows, delimiter):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def each(make):
    return [make(number) for number in NUMBERS]


MESSAGES = {
    "messages": Case("chat.jsonl", each(lambda n: {"messages": chat(n, *chat(f"{n} more"))})),
    "messages with a system column": Case("chat.jsonl", each(lambda n: {"messages": chat(n), "system": "Be brief."})),
    "messages with a weight": Case(
        "chat.jsonl",
        each(lambda n: {"messages": [{**chat(n)[0]}, {**chat(n)[1], "weight": 0}, *chat(f"{n} more")]}),
    ),
    "prompt of messages with an answer": Case(
        "chat.jsonl",
        each(
            lambda n: {
                "prompt": chat(n, {"role": "user", "content": "And twice?"}),
                "completion": [{"role": "assistant", "content": f"Twice {n}."}],
            }
        ),
    ),
    "messages in a list": Case("chat.json", json.dumps(each(lambda n: {"messages": chat(n)}))),
    "messages as JSON text": Case("chat.csv", table(each(lambda n: {"messages": json.dumps(chat(n))}), ",")),
    "messages under another name": Case(
        "chat.jsonl", each(lambda n: {"talk": chat(n)}), {"columns": {"messages": "talk"}}
    ),
    "ShareGPT with system": Case(
        "share.jsonl",
        each(
            lambda n: {
                "system": "Be kind.",
                "conversations": [{"from": "human", "value": f"And {n}?"}, {"from": "gpt", "value": f"Yes, {n}."}],
            }
        ),
    ),
    "splits": Case(
        "splits.json",
        json.dumps({name: each(lambda n: {"messages": chat(n)}) for name in ("train", "test")}),
        {"evaluation_split": "test"},
    ),
}
PAIRS_OF_TEXTS = {
    "alpaca with history": Case(
        "alpaca.jsonl",
        each(
            lambda n: {
                "instruction": f"Say {n}.",
                "input": "",
                "output": f"{n}!",
                "history": [["Hi?", "Hello."]],
            }
        ),
    ),
    "alpaca with input": Case(
        "alpaca.jsonl", each(lambda n: {"instruction": "Repeat.", "input": n, "output": f"{n}, {n}", "system": "Go."})
    ),
    "prompt and completion": Case("a.jsonl", each(lambda n: {"prompt": f"Say {n}.", "completion": f"{n}."})),
    "question and answer with context": Case(
        "qa.jsonl", each(lambda n: {"question": "Which?", "answer": n, "context": f"There is {n}."})
    ),
    "csv with semicolons": Case(
        "Meine Daten.csv", table(each(lambda n: {"prompt": f"Say; {n}.", "completion": "NA"}), ";")
    ),
    "columns of a person": Case(
        "Fragen.csv",
        table(each(lambda n: {"Frage": f"Was ist {n}?", "Antwort": f"{n}", "Nr": "7"}), ";"),
        {"columns": {"prompt": "Frage", "completion": "Antwort"}},
    ),
}
TEXTS = {
    "document and summary": Case("a.jsonl", each(lambda n: {"document": f"{n} and {n}", "summary": n, "id": n})),
    "translation": Case("a.jsonl", each(lambda n: {"translation": {"en": f"the {n}", "fr": f"le {n}"}})),
    "text": Case("a.jsonl", each(lambda n: {"text": f"There is {n} and more."})),
    "text in a column of a person": Case(
        "a.jsonl", each(lambda n: {"Inhalt": f"There is {n}."}), {"columns": {"text": "Inhalt"}}
    ),
    "paragraphs": Case("a.txt", "One is\none.\n\nTwo.\n\n \nThree.\n\nFour."),
}
PAIRS = {
    "explicit prompt": Case(
        "p.jsonl", each(lambda n: {"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": "No."})
    ),
    "explicit prompt of messages": Case(
        "p.jsonl",
        each(
            lambda n: {
                "prompt": chat(n)[:1],
                "chosen": chat(n)[1:],
                "rejected": [{"role": "assistant", "content": "No."}],
            }
        ),
    ),
    "implicit prompt": Case(
        "p.jsonl",
        each(
            lambda n: {"chosen": chat(n), "rejected": [chat(n)[0], {"role": "assistant", "content": "No."}]}
        ),
    ),
    "HH-RLHF": Case(
        "hh.jsonl",
        each(
            lambda n: {
                "chosen": f"\n\nHuman: Say {n}.\n\nAssistant: {n}!",
                "rejected": f"\n\nHuman: Say {n}.\n\nAssistant: No.",
            }
        ),
    ),
    "ShareGPT pairs": Case(
        "share.jsonl",
        each(
            lambda n: {
                "conversations": [{"from": "human", "value": f"Say {n}."}],
                "chosen": {"from": "gpt", "value": f"{n}!"},
                "rejected": {"from": "gpt", "value": "No."},
            }
        ),
    ),
    "Orca-DPO": Case(
        "orca.jsonl",
        each(lambda n: {"system": "Be brief.", "question": f"Say {n}.", "chosen": f"{n}!", "rejected": "No."}),
    ),
    "scored": Case(
        "scored.jsonl",
        each(
            lambda n: {
                "prompt": f"Say {n}.", "response_a": "No.", "response_b": f"{n}!", "score_a": 1, "score_b": 3,
            }
        ),
    ),
    "texts without sides": Case(
        "texts.jsonl",
        each(lambda n: {"chosen": f"There was {n} and it was good", "rejected": f"There was {n} and it was bad"}),
    ),
}  # fmt: skip
CALLS = {
    "messages with tools": Case("tools.jsonl", each(lambda n: {"messages": called(n), "tools": TOOLS})),
    "reasoning": Case(
        "think.jsonl",
        each(
            lambda n: {
                "messages": [
                    {"role": "user", "content": f"What is {n}?"},
                    {"role": "assistant", "content": f"It is {n}.", "reasoning_content": f"Think of {n}."},
                ]
            }
        ),
    ),
    "reasoning left out": Case(
        "think.jsonl",
        each(
            lambda n: {
                "messages": [
                    {"role": "user", "content": f"What is {n}?"},
                    {"role": "assistant", "content": f"<think>Of {n}.</think>It is {n}."},
                ]
            }
        ),
        {"thinking": "drop"},
    ),
}
"""What needs a chat template that renders it."""

PLAIN = {**MESSAGES, **PAIRS_OF_TEXTS, **TEXTS, **PAIRS}
