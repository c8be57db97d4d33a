"""The doors work on a runs folder and a tiny model of their own."""

from pathlib import Path

import pytest

from tests.trainer.conftest import tiny_config, tiny_model, tiny_tokenizer

__all__ = ["tiny_config", "tiny_model", "tiny_tokenizer"]


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows like those that the tiny model's tokenizer was made for, as many as the advice holds some out of."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    rows = [f"What comes after {number}?,In short: {number} and more." for number in range(128)]
    path.write_text("\n".join(["prompt,completion", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the doors at a runs folder that does not exist yet."""
    monkeypatch.setenv("LORAFIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
