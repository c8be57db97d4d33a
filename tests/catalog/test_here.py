"""A folder that cannot be trained is refused before a run of it exists."""

import json

import pytest

from catalog import here
from specs import CatalogError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({}, "has no safetensors weights", id="none"),
        pytest.param({"pytorch_model.bin": "x"}, "has no safetensors weights", id="a pickle"),
        pytest.param({"model.safetensors": POINTER}, "is a pointer of Git LFS", id="a clone without LFS"),
        pytest.param(
            {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})},
            "lacks a file of its weights, got '1.safetensors'",
            id="an index alone",
        ),
        pytest.param({"model.safetensors.index.json": "[]"}, "must list the files", id="an index that is none"),
    ],
)
def test_a_folder_without_its_weights_is_refused(folder, files, said):
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(CatalogError, match=said):
        here.require_weights(str(folder))


def test_a_folder_with_all_its_weights_is_accepted(folder):
    index = {"weight_map": {"a": "1.safetensors", "b": "../elsewhere/2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("1.safetensors", "2.safetensors"):
        (folder / name).touch()
    assert here.require_weights(str(folder)) is None
