"""Model cards name base model, data, settings, numbers and licence, in a form the Hub parses, and no folder of here."""

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard

from trainer.data.source import DataSource
from trainer.runs import cards, export
from trainer.runs.contract import Metric, Place

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def made(store, plan_of, tmp_path):
    """Makes a run with a result, as PEFT writes it, of a model with a card, on data that was uploaded."""

    def run_of(name: str, card: str = "", **plan: object):
        folder = tmp_path / "secret place" / "my-model"
        folder.mkdir(parents=True, exist_ok=True)
        if card:
            (folder / "README.md").write_text(card)
        data = tmp_path / "aaaa.jsonl"
        data.with_suffix(".name.json").write_text('"letters *2026*.jsonl"')
        source = DataSource(path=str(data))
        values = dataclasses.replace(plan_of(**plan), model_name_or_path=name.format(folder=folder))
        run = store.create(values, source, place=Place(model_path=str(folder)))
        result = store.run_folder(run.id) / export.RESULT
        result.mkdir()
        (result / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder), "r": 4}))
        (result / "README.md").write_text(f"base_model: {folder}")
        store.add_details(run.id, rows=120, data_sha256="ab12", libraries={"peft": "0.21.0"}, loss_of_tokens=True)
        for step, loss in ((1, 3.0), (2, 2.5)):
            store.add_metric(run.id, Metric(step=step, loss=loss, eval_loss=loss + 0.1))
        return store.run(run.id)

    return run_of


def test_a_card_names_base_data_settings_numbers_and_licence(store, made):
    run = made(HUB, r=16)
    text = cards.model_card(run, store.metrics(run.id))
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "base_model": HUB,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "tags": ["lorafit"],
    }
    for words in (
        "letters \\*2026\\*.jsonl, 120 rows",
        "SHA-256 ab12",
        "model (apache-2.0);",
        '"r": 16',
        "peft 0.21.0",
        "from 3.0000 to 2.5000",
    ):
        assert words in text
    assert "from 3.1000 to 2.6000 (perplexity 13.46)" in text
    assert ModelCard(cards.model_card(run, (), merged=True)).data.base_model_relation == "finetune"


@pytest.mark.parametrize(
    ("name", "card", "expected"),
    [
        pytest.param("{folder}", "---\nlicense: mit\n---\n", {"license": "mit"}, id="the card of the folder"),
        pytest.param(
            "{folder}",
            "---\nlicense: other\nlicense_name: house\nlicense_link: https://example.org\n---\n",
            {"license": "other", "license_name": "house", "license_link": "https://example.org"},
            id="a licence of its own",
        ),
        pytest.param("{folder}", "---\n[torn: {\n---\n", {"license": "other"}, id="a torn card"),
        pytest.param("{folder}", "", {"license": "other", "license_name": "as-the-base-model"}, id="no card"),
        pytest.param("me/own", "", {"license": "other", "license_link": "https://huggingface.co/me/own"}, id="the Hub"),
    ],
)
def test_the_licence_is_that_of_the_base_model_or_says_where_its_terms_are(store, made, name, card, expected):
    run = made(name, card)
    found = ModelCard(cards.model_card(run, store.metrics(run.id))).data.to_dict()
    assert found.items() >= expected.items()


def test_nothing_that_is_shared_names_a_folder_of_this_machine(store, made, tmp_path):
    run, other = made("{folder}"), made(HUB)
    for one in (run, other):
        package = export.package(store, one)
        texts = {name: found if isinstance(found, bytes) else found.read_bytes() for name, found in package.items()}
        assert not [name for name, found in texts.items() if str(tmp_path).encode() in found]
        base = json.loads(texts["adapter_config.json"])["base_model_name_or_path"]
        assert base == cards.base_name(one)
    assert cards.base_name(run) == "my-model"
    assert "base_model" not in ModelCard(cards.model_card(run, ())).data.to_dict(), (
        "the Hub refuses one that is a folder"
    )
    assert run.plan.model_name_or_path.startswith(str(tmp_path)), "the run itself keeps it"
