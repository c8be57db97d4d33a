import json
import zipfile
from collections import defaultdict
from importlib.metadata import version

import pytest

from catalog import models
from estimator.__main__ import measured_recipes
from estimator.tape import library, shipping
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import LIBRARIES, recipe
from estimator.tracer.trace import trace
from specs import FinetunePlan
from specs.paths import assets

ARCHIVES = sorted((assets() / "tapes").glob("*.zip"))


def names(archive):
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def content(archive, name):
    with zipfile.ZipFile(archive) as opened:
        return json.loads(opened.read(name))


@pytest.mark.slow
def test_the_shipped_tapes_are_those_that_the_catalog_and_the_measured_rows_need():
    needed = defaultdict(set)
    main = (one for name in models.names() for one in shipping.main_recipes(models.find(name)))
    for wanted in (*measured_recipes(), *main):
        needed[library.shipped_file(wanted).name].add(f"{wanted.key}.json")
    assert {archive.name: set(names(archive)) for archive in ARCHIVES} == needed, "run `python -m estimator tapes`"


def test_shipped_tapes_were_traced_with_the_libraries_of_the_requirements():
    traced_with = [content(archive, names(archive)[0])["facts"]["versions"] for archive in ARCHIVES]
    # What follows a plus says which build it is, such as one for processors.
    plain = [{name: text.partition("+")[0] for name, text in versions.items()} for versions in traced_with]
    installed = {name: version(name).partition("+")[0] for name in LIBRARIES}
    assert all(versions == installed for versions in plain), "trace the tapes again: `python -m estimator tapes`"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param("google/gemma-2b", "lora", id="LoRA"),
        pytest.param("meta-llama/Llama-3.2-1B", "lora-8bit", id="8-bit"),
    ],
)
def test_a_shipped_tape_is_what_the_tracer_makes(model, method):
    plan = FinetunePlan.for_method(method, model, bf16=True)
    wanted = recipe(models.find(model), plan, Conditions())
    shipped = content(library.shipped_file(wanted), f"{wanted.key}.json")
    traced = json.loads(trace(wanted, lambda _: None).to_json())
    for tape in (shipped, traced):
        del tape["facts"]["seconds"]
        # A condition that came later stands at its default in a tape that does not name it.
        tape["facts"]["conditions"] = Conditions(**tape["facts"]["conditions"])
    assert shipped == traced


def test_tapes_that_nothing_needs_are_dropped_and_the_others_kept(tmp_path, monkeypatch):
    model = models.find("HuggingFaceTB/SmolLM2-135M-Instruct")
    needed, unneeded = (
        recipe(model, FinetunePlan.for_method("lora", model.name, lora_dropout=dropout), Conditions())
        for dropout in (0.0, 0.05)
    )
    file = library.shipped_file(needed, tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        for one in (needed, unneeded):
            archive.writestr(f"{one.key}.json", one.to_json())
    with zipfile.ZipFile(tmp_path / "of_no_model.zip", "w") as archive:
        archive.writestr("alone.json", "{}")
    monkeypatch.setattr(library, "shipped_file", lambda _: file)
    assert shipping.prune([needed]) == 2
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert names(file) == [f"{needed.key}.json"]
    assert content(file, f"{needed.key}.json") == json.loads(needed.to_json())
