"""The Export tab offers what a tool needs to train on the person's own data."""

import io
import json
import zipfile

import pytest

from advisor.export import FORMATS
from ui.plan import exporting, planning
from ui.plan.data import datasets
from ui.plan.data.datasets import Choice
from ui.plan.forms import Inputs

pytestmark = pytest.mark.slow

PAIRS = [{"frage": f"Say {n}.", "gut": f"{n}!", "schlecht": "No."} for n in range(8)]


@pytest.fixture
def upload():
    """Keeps an upload of pairs in a csv with columns of its own; returns its label."""
    lines = ["frage;gut;schlecht", *(";".join(row.values()) for row in PAIRS)]
    label = datasets.add(io.BytesIO("\n".join(lines).encode()), "Meine Paare.csv")
    datasets.set_column_roles(label, {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"})
    return label


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("script", 'default="Meine Paare.csv"', id="script"),
        pytest.param("trl", "trl dpo --config trl_dpo.yaml", id="TRL"),
        pytest.param("axolotl", 'rl: "dpo"', id="Axolotl"),
        pytest.param("llamafactory", 'stage: "dpo"', id="LLaMA-Factory"),
        pytest.param("snippet", "DPOConfig(", id="objects"),
    ],
)
def test_an_upload_is_exported_under_its_own_name_and_for_its_task(page, upload, name, words):
    app = page(view="Export", data=upload, format=FORMATS[name].label)
    assert not app.error
    shown = "\n".join(block.value for block in app.code)
    assert words in shown
    assert "Meine Paare" in shown
    assert any("To use it" in block.value for block in app.markdown)


def test_all_files_hold_the_configuration_and_the_converted_data(upload):
    inputs = Inputs(
        model=planning.DEMO_MODEL,
        device="24 GB",
        num_gpus=1,
        data=Choice(label=upload),
        task="",
        goal="balanced",
        rules="evidence",
        pins={},
    )
    asked = planning.request(inputs)
    made = exporting.export_of(asked, planning.recommendation(asked), "llamafactory")
    with zipfile.ZipFile(io.BytesIO(exporting.archive(asked, made))) as packed:
        data = [json.loads(line) for line in packed.read("Meine Paare.pairs.jsonl").splitlines()]
        info = json.loads(packed.read("dataset_info.json"))
        assert {*packed.namelist()} >= {"llamafactory.yaml", "READ ME.txt"}
    assert [row["chosen"]["value"] for row in data] == [row["gut"] for row in PAIRS]
    assert [entry["file_name"] for entry in info.values()] == ["Meine Paare.pairs.jsonl"]
