"""A run's page offers its model in fewer bits: what each way needs, what was found of those kept, and where it is."""

import json
from dataclasses import asdict

import pytest

from trainer.results import judgement, quantizing
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from ui.parts import text
from ui.runs.facts import run_data
from ui.runs.facts.evaluated import lost_by_quantizing

BEFORE, AFTER = [[30.0, 20.0], [31.5, 20.9]]
COMPARED = [
    judgement.losses("loss", "Loss per token", [(a, b, 10) for a, b in zip(BEFORE * 4, AFTER * 4, strict=True)]),
    judgement.losses("general", "Loss per token of general text", [(300.0, 310.0, 100)] * 8),
]


@pytest.fixture
def learned(finished):
    run = finished([2.0, 1.0])
    (run_data.store().run_folder(run.id) / RESULT).mkdir()
    return run


def keep(run, way):
    folder = quantizing.folder(run_data.store(), run, way)
    folder.mkdir()
    found = {"way": way, "label": quantizing.WAYS[way].label, "compared": judgement.as_json(COMPARED)}
    sizes = {"before_bytes": 256 << 20, "after_bytes": 96 << 20, "step": 2}
    (folder / quantizing.FOUND).write_text(json.dumps(found | sizes))
    return folder


def test_each_way_says_what_it_is_and_what_it_needs(page, learned):
    app = page("runs", run=learned.id)
    assert not app.button(key="quantize").disabled
    for name, way in quantizing.WAYS.items():
        app.selectbox(key="quantize to").set_value(name).run()
        told = next(box.value for box in app.caption if text.plain(way.about) in box.value)
        assert app.button(key="quantize").disabled == bool(way.lacks) == ("is not installed" in told), asdict(way)


def test_what_was_lost_is_a_table_with_the_folder_and_how_to_ask(page, learned):
    folder = keep(learned, "nf4")
    app = page("runs", run=learned.id)
    captions = [box.value for box in app.caption]
    assert any("In 16 bit the model takes" in one and "tab *Chat*" in one for one in captions)
    assert text.plain(f"NF4: {folder}") in captions
    table = lost_by_quantizing([*run_data.quantized(learned).values()])
    assert table["Size"] == ["96 MiB"]
    assert table["Perplexity, unlearned rows"][0].startswith("12.18 → 13.74 (+")
    assert table["Perplexity, unlearned rows"][0].endswith("%, 8 rows)")
    assert table["Perplexity, general text"] == ["20.09 → 22.2 (+10.5% to +10.5%, 8 passages)"]


def test_a_run_that_is_training_again_is_not_quantized_meanwhile(page, learned):
    app = page("runs", run=learned.id)
    run_data.store().extend(learned.id, 9)
    run_data.store().claim_next("cpu")
    assert run_data.store().run(learned.id).state is State.PREPARING
    app.button(key="quantize").click().run()
    assert not app.exception
    (said,) = [box.value for box in app.error]
    assert "quantization" in said, said
    assert not run_data.quantized(learned)
