"""The set-up fetches nothing without a hash, knows when it has nothing to do, and fails in one sentence."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import demo_model, setup


def requirements(name: str) -> list[str]:
    text = (setup.LISTS / name).read_text()
    return [line for line in re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text)) if line.strip()]


@pytest.mark.parametrize(
    "name", [*setup.APP_LISTS, *setup.CONVERTER_LISTS, "cuda.txt", "mcp.txt", "test.txt", "demo-model.txt"]
)
def test_every_package_is_pinned_exactly_and_by_hash(name: str) -> None:
    entries = requirements(name)
    assert entries
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_the_hashed_lists_hold_the_pins_that_people_read() -> None:
    hashed = {
        entry.split("==")[0].lower().replace("_", "-"): entry.split("==")[1].split()[0]
        for name in (*setup.APP_LISTS, "mcp.txt", "test.txt")
        for entry in requirements(name)
    }
    for name in ("requirements.txt", "requirements-mcp.txt", "requirements-test.txt"):
        pins = [line.split("==") for line in (setup.REPO / name).read_text().splitlines() if "==" in line]
        assert pins
        assert {package: hashed[package.replace("_", "-")] for package, _ in pins} == dict(pins)


def test_the_demo_model_has_a_single_hash() -> None:
    assert demo_model.WHEEL_SHA256 in (setup.LISTS / "demo-model.txt").read_text()


def test_missing_chromium_is_an_error_in_ci_and_a_printed_line_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(setup.SetupError, match="Chromium"):
        setup.install_chromium()
    monkeypatch.setenv("CI", "false")
    setup.install_chromium()
    assert "SKIPPED" in capsys.readouterr().out


def test_the_error_that_pip_reports_is_printed_in_one_line() -> None:
    result = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching distribution found for x==1\n")
    assert setup.last_error(result) == "No matching distribution found for x==1"


def test_a_second_set_up_waits_for_the_first_one(tmp_path: Path) -> None:
    hold = "from scripts import setup\nwith setup.alone():\n    print('in', flush=True)\n    input()"
    start = [sys.executable, "-c", hold]
    environment = {**os.environ, "LORAFIT_CACHE": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment, "cwd": setup.REPO}
    with subprocess.Popen(start, **pipes) as first, subprocess.Popen(start, **pipes) as second:
        told = {first: first.stdout.readline(), second: second.stdout.readline()}
        (holder,) = [process for process, line in told.items() if line == "in\n"]
        (waiting,) = [process for process, line in told.items() if line.startswith("Waiting for another set-up")]
        holder.kill()
        assert waiting.stdout.readline() == "in\n"
        waiting.communicate("\n")
    assert waiting.returncode == 0
