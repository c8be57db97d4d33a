"""The MCP server, driven by the official client: what it lists and answers, what it refuses, a run that it starts."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="make setup-test installs mcp")

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters, stdio_client

import lorafit
from lorafit.mcp import main
from lorafit.server import server
from specs import FinetunePlan, paths
from trainer.runs.contract import State
from trainer.runs.store import Store

LLAMA, CARD = "meta-llama/Llama-3.1-8B", "RTX 4090"
KNOWN = {"bf16": True, "gradient_checkpointing": True}
"""Settings whose tapes are shipped."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mcp") / "runs"


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as opened:
        yield opened


@pytest.fixture(scope="module")
def connected(portal, runs) -> Iterator[Client]:
    """A client of a server that may start runs, started as clients start one: from anywhere, over stdio."""
    environment = {**os.environ, "PYTHONPATH": str(paths.REPO), "LORAFIT_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    arguments = ["-m", "lorafit.mcp", "--allow-start"]
    started = StdioServerParameters(command=sys.executable, args=arguments, env=environment, cwd="/")
    with portal.wrap_async_context_manager(Client(stdio_client(started))) as client:
        yield client


@pytest.fixture(scope="module")
def call(portal, connected) -> Callable[..., Any]:
    """Calls a tool and returns what it answers, which stands in the text too."""

    def called(tool: str, **arguments: Any) -> Any:
        result = portal.call(functools.partial(connected.call_tool, tool, arguments))
        assert not result.is_error, result.content
        assert json.loads(result.content[0].text) == result.structured_content
        return result.structured_content

    return called


def test_the_tools_say_what_they_take_and_which_of_them_acts(portal, connected):
    tools = {tool.name: tool for tool in portal.call(connected.list_tools).tools}
    assert [*tools] == ["advise", "estimate", "compare", "watch", "start"]
    assert [name for name, tool in tools.items() if not tool.annotations.read_only_hint] == ["start"]
    for tool in tools.values():
        assert tool.description.endswith(".")
        assert all("description" in argument for argument in tool.input_schema["properties"].values())


def test_estimates_are_those_of_the_function(call):
    told = call("estimate", model=LLAMA, method="qlora", gpu=CARD, settings=KNOWN)
    expected = lorafit.estimate(LLAMA, method="qlora", gpu=CARD, **KNOWN).to_dict()
    assert told == json.loads(json.dumps(expected))
    assert told["verdict"] == "fits"


def test_an_advised_plan_is_taken_by_the_other_tools(call):
    told = call("advise", model=LLAMA, gpu=CARD, data=5000, task="code", settings={"r": 32})
    assert FinetunePlan.from_dict(told["plan"]) == lorafit.advise(LLAMA, gpu=CARD, data=5000, task="code", r=32).plan
    assert all({"reason", "source"} <= one.keys() for one in told["advice"])
    assert call("estimate", plan=told["plan"], gpu=CARD)["used_bytes"] == told["estimate"]["used_bytes"]
    vary = {"method": ["lora", "qlora"], "gpu": ["12 GB", "nothing"]}
    found = call("compare", plan=told["plan"], vary=vary, gpu=CARD)["variants"]
    assert [one.get("verdict") for one in found] == ["does not fit", None, "fits", None]
    assert "is not in the catalog, got nothing" in found[1]["refusal"]


REFUSED = [
    pytest.param("estimate", {"model": "no such model"}, "model: is not in the catalog", id="no such model"),
    pytest.param("estimate", {"modell": "7B"}, "estimate: modell: is not an argument. Nearest: model", id="argument"),
    pytest.param("estimate", {"model": "7B", "method": ["x"]}, "estimate: method: must be a valid string", id="type"),
    pytest.param("estimate", {"model": "7B", "settings": {"rank": 8}}, "settings: rank: is not a field", id="field"),
    pytest.param("estimate", {}, "model: must be given", id="nothing"),
    pytest.param("compare", {"model": "7B"}, "compare: vary: is missing", id="missing"),
    pytest.param("advise", {"model": LLAMA, "gpu": CARD, "data": "/no.csv"}, "/no.csv: is not a file", id="no file"),
    pytest.param("watch", {"run": "x", "seconds": 1000}, "watch: seconds: must be less than", id="too patient"),
    pytest.param("start", {"plan": {}, "data": "x"}, "plan: model_name_or_path: is missing", id="no plan"),
    pytest.param("erase", {}, "tool: must be one that this server lists", id="no tool"),
]


@pytest.mark.parametrize(("tool", "arguments", "said"), REFUSED)
def test_what_cannot_be_done_is_a_result_with_one_sentence(portal, connected, tool, arguments, said):
    result = portal.call(functools.partial(connected.call_tool, tool, arguments))
    assert result.is_error
    (content,) = result.content
    assert content.text.startswith(said)
    assert len(content.text.splitlines()) == 1
    assert len(content.text) <= 300


def test_who_may_not_start_runs_is_told_so(portal, runs, monkeypatch):
    monkeypatch.setenv("LORAFIT_RUNS", str(runs.parent / "others"))
    with portal.wrap_async_context_manager(Client(server(allow_start=False))) as client:
        assert "start" not in {tool.name for tool in portal.call(client.list_tools).tools}
        for tool, said in (("start", "start: is not allowed by this server."), ("watch", "runs: has no run yet.")):
            result = portal.call(client.call_tool, tool, {})
            assert result.is_error
            assert result.content[0].text.startswith(said)
    assert not (runs.parent / "others").exists()


@pytest.mark.slow
def test_a_run_is_started_and_watched_to_its_end(call, runs, tiny_model, tiny_data):
    plan = FinetunePlan.for_method("lora", str(tiny_model), dtype="float32", r=4, max_length=64)
    asked = {"device": "cpu", "prompts": ["What comes after one?"], "settings": {"max_steps": 2}}
    started = call("start", plan=plan.to_dict(), data=str(tiny_data), **asked)["run"]
    for _ in range(15):
        told = call("watch", run=started["id"], seconds=20)
        if told["run"]["state"] not in {"preparing", "running"}:
            break
    assert (told["run"]["state"], told["run"]["error"], told["newest"]["step"]) == (State.FINISHED, None, 2)
    assert told["newest"]["loss"] > 0
    assert [answer["prompt"] for answer in told["answers"]] == asked["prompts"]
    assert told["evaluation"] is None
    (line,) = call("watch")["runs"]
    assert (line["id"], line["step"], line["method"]) == (started["id"], 2, "lora")
    assert Store(runs).run(started["id"]).plan.max_steps == 2


def test_without_the_package_the_door_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main([]) == 2
    assert capsys.readouterr().err == "mcp: is a package that is not installed here. Run make mcp.\n"
