"""The notebook runs from its first cell to its last, and is kept without what it printed."""

import json

import pytest

from specs import paths
from trainer.runs.contract import State

NOTEBOOK = json.loads((paths.REPO / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_what_it_printed():
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.slow
def test_it_runs_to_the_verdict(runs_folder, monkeypatch, capsys, tiny_model, tiny_data):
    monkeypatch.syspath_prepend(str(paths.REPO))
    parameters = {"MODEL": str(tiny_model), "DATA": tiny_data, "STEPS": 2, "ROWS": 8, "ANSWERS": 1}
    names: dict = {}
    for cell in CODE:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102 - our own notebook
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    assert (names["run"].state, names["seen"].newest.step) == (State.FINISHED, 2)
    printed = capsys.readouterr().out
    assert names["judged"].found["verdict"]["sentence"] in printed
    assert "learning_rate" in printed
    assert runs_folder.is_dir()
