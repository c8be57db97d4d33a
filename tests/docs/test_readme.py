"""README and docs/architecture.md tell the truth: generated parts are up to date, examples print what they show."""

import contextlib
import importlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from scripts import readme
from trainer.data.files import reading
from trainer.data.forms import messages
from trainer.runs.contract import ACTIVE, TRANSITIONS, State

README = readme.README.read_text(encoding="utf-8")
ARCHITECTURE = readme.ARCHITECTURE.read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the README that takes no minutes, with the lines that it shows of the output."""
    for block in blocks(README, "console"):
        for part in block.split("$ ")[1:]:
            command, *shown = part.splitlines()
            if "trainer run" not in command:
                yield command, shown


def printed(command: str) -> str:
    _, _, module, *arguments = shlex.split(command)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert importlib.import_module(f"{module}.__main__").main(arguments) == 0
    return output.getvalue()


def test_the_readme_names_every_folder_and_says_how_exact_the_memory_is() -> None:
    assert readme.updated_readme(README, date(2000, 1, 1)) == README, "run `make readme`"


def test_the_architecture_names_every_module_and_contract() -> None:
    assert readme.updated_architecture(ARCHITECTURE) == ARCHITECTURE, "run `make readme`"
    contracts = tomllib.loads((readme.REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert all(contract["name"] in ARCHITECTURE for contract in contracts)
    assert all(f"(../{path})" in ARCHITECTURE for path in readme.modules() if path.name != "__init__.py")


def test_the_page_about_data_names_every_layout_and_every_key() -> None:
    page = readme.DATA.read_text(encoding="utf-8")
    assert readme.updated_data(page) == page, "run `make readme`"
    read = {*messages.ROLES, *messages.CALLS, *messages.READ_KEYS, *reading.READERS}
    assert [name for name in sorted(read) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("path", readme.modules(), ids=str)
def test_every_module_says_in_one_line_what_it_is(path: Path) -> None:
    assert readme.summary(readme.REPO / path), f"{path} has no docstring"


@pytest.mark.parametrize(("command", "shown"), [pytest.param(*one, id=one[0][:40]) for one in examples()])
def test_an_example_on_the_command_line_prints_what_it_shows(command: str, shown: list[str]) -> None:
    output = printed(command.partition(" > ")[0])
    assert output
    assert [line for line in shown if line not in output] == []


def test_the_example_in_python_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = blocks(README, "python")
    exec(compile(source, "README.md", "exec"), {})  # noqa: S102 - our own example
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.*)", source)


def test_the_example_of_the_functions_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = blocks((readme.REPO / "docs" / "api.md").read_text(encoding="utf-8"), "python")
    exec(compile(source, "api.md", "exec"), {})  # noqa: S102 - our own example
    shown = re.findall(r"print\(.*\)  # (.*)", source)
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(shown)] == shown
    assert printed[len(shown) :] == [
        "lora 12 GB does not fit",
        "lora 24 GB fits",
        "qlora 12 GB tight",
        "qlora 24 GB fits",
    ]


def test_the_diagram_of_states_has_every_change_of_state_and_no_other() -> None:
    (diagram,) = (block for block in blocks(ARCHITECTURE, "mermaid") if block.startswith("stateDiagram"))
    over = set(State) - ACTIVE - {State.QUEUED}
    groups = {"active": ACTIVE, "over": over, **{state.value: {state} for state in State}}
    drawn = {
        (one, other)
        for start, end in re.findall(r"(\w+) --> (\w+)", diagram)
        for one in groups[start]
        for other in groups[end]
    }
    assert drawn == {(state, to) for state, others in TRANSITIONS.items() for to in others}


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 135
