"""Changes are drawn alike by a seed, made in a copy, and told where no test notices them."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import mutants

MODULE = '''"""A module."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    limit: int | None = None


def seen(number: int, *, most: int) -> bool:
    return number + 1 < most


def unseen(number: int) -> int:
    return -number
'''
TEST = """from specs.module import seen


def test_it():
    assert seen(1, most=3)
    assert not seen(1, most=2)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one module, of which half is tested."""
    for name, text in {
        "specs/module.py": MODULE,
        "specs/__init__.py": "LEFT_OUT = 1 + 1\n",
        "tests/specs/test_module.py": TEST,
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow", "browser"]\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)  # noqa: S607  (the git in use)
    monkeypatch.setattr(mutants, "REPO", tmp_path)
    monkeypatch.setattr(mutants, "PACKAGES", ("specs",))
    return tmp_path


@pytest.mark.usefixtures("project")
def test_operators_and_numbers_are_changed_and_nothing_else() -> None:
    found = mutants.places(mutants.files(()))
    lines = [MODULE.splitlines()[line - 1].strip() for _, (line, _) in sorted(found)]
    assert lines == ["return number + 1 < most"] * 3 + ["return -number"]


def test_a_seed_draws_the_same_changes_again() -> None:
    found = mutants.places(mutants.files(("specs/units.py", "specs/gpu.py")))
    drawn = [[str(change) for change in mutants.sample(found, seed, 5)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(mutants.sample(found, 1, 10_000)) == len(found)


def test_what_no_test_notices_is_told_and_nothing_is_left_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mutants", "--number", "9", "--jobs", "1"])
    assert mutants.main() == 1
    said = capsys.readouterr().out
    assert "seed 1: 4 of 4 places" in said
    assert "not caught: specs/module.py:16\n-    return -number\n+    return number" in said
    assert said.endswith("seed 1: 3 of 4 caught, 75 %\n")
    assert (project / "specs" / "module.py").read_text() == MODULE


def test_tests_that_fail_without_a_change_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "tests" / "specs" / "test_module.py").write_text("def test_it():\n    assert False\n")
    monkeypatch.setattr(sys, "argv", ["mutants", "--number", "1", "--jobs", "1"])
    with pytest.raises(SystemExit, match="tests/specs: fails without any change"):
        mutants.main()
