"""The tools of the MCP server: each calls a function of ``lorafit.api`` and answers with plain JSON values.

The only importer of ``mcp``. Standard output belongs to the protocol: while it serves, mcp's ``stdio_server`` leads
what anybody else prints there to standard error.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field, ValidationError

from specs import FinetunePlan, LorafitError, PlanError
from specs.doors.faults import told
from specs.errors import clipped, nearest

INSTRUCTIONS = (
    "LoRAFit advises settings for LoRA, QLoRA and full fine-tuning, predicts memory and time, and trains on this "
    "machine. Ask advise for a plan, estimate and compare for memory, and watch for runs. Memory is in bytes. "
    "Everything is computed here; a refusal is one sentence that says what to change."
)
MOST_SECONDS = 60
"""How long ``watch`` waits at most: clients give up on a tool after a minute or more."""
_LIBRARY = "estimator.tape.library"
"""What starts a process of its own, once something was traced."""

Answer = dict[str, Any]

Model = Annotated[
    str, Field(description="A model: a name such as Llama-3.1-8B, a Hub id, a folder, or a size such as 7B")
]
Gpu = Annotated[
    str | None,
    Field(description="A card such as RTX 4090 or a memory such as 24 GB; without, this machine's own device"),
]
Rows = Annotated[
    str | int | None, Field(description="A file of training data on this machine, or how many rows there will be")
]
Settings = Annotated[
    dict[str, Any] | None, Field(description="Fields of the plan to set, by the names of PEFT and TRL, such as r: 32")
]


def advise(  # noqa: PLR0913 - one argument for each input of the form that a client shows
    model: Model,
    gpu: Gpu = None,
    data: Rows = None,
    task: Annotated[
        str | None,
        Field(description="classification, style, instruction, domain, reasoning, code, preference or similarity"),
    ] = None,
    goal: Annotated[str, Field(description="quality, balanced, speed or memory")] = "balanced",
    rules: Annotated[str, Field(description="evidence, or classic for the textbook")] = "evidence",
    settings: Settings = None,
) -> Answer:
    """Recommend a plan: each setting with its reason and source, its memory and time, and what else would fit.

    The plans of alternatives and levers are left out: ask compare or estimate.
    """
    asked = importlib.import_module("lorafit.asked")
    question = asked.Question(model=model, gpu=gpu, data=data, task=task, goal=goal, pins=settings or {})
    known = asked.looked_up(question)
    found = asked.recommended(known.situation, rules=rules).to_dict()
    for entry in (*found["alternatives"], *found["levers"]):
        del entry["plan"]
    return {**found, "data": asked.recognised(known.report), "remarks": list(known.remarks)}


def estimate(
    model: Annotated[str | None, Field(description="A model; leave it out where a plan is given")] = None,
    method: Annotated[str | None, Field(description="Such as lora, qlora or full; without, lora or the plan's")] = None,
    gpu: Gpu = None,
    plan: Annotated[dict[str, Any] | None, Field(description="A whole plan, as advise returns it")] = None,
    settings: Settings = None,
) -> Answer:
    """Predict the memory of a plan by part, and whether it fits: verdict is fits, tight or does not fit."""
    found = _api().estimate(_model_or_plan(model, plan), gpu=gpu, method=method, **_settings(settings))
    return dict(found.to_dict())


def compare(
    vary: Annotated[
        dict[str, list[Any]],
        Field(description="Settings with their values; model, gpu, method, or fields of the plan such as r"),
    ],
    model: Annotated[str | None, Field(description="A model; leave it out where a plan is given")] = None,
    gpu: Gpu = None,
    plan: Annotated[dict[str, Any] | None, Field(description="A whole plan, as advise returns it")] = None,
    data: Rows = None,
    settings: Settings = None,
) -> Answer:
    """Predict the memory of a plan under every combination of some settings, or say of one why there is none."""
    found = _api().compare(_model_or_plan(model, plan), vary, gpu=gpu, data=data, **_settings(settings))
    return {"variants": [_brief(variant.to_dict()) for variant in found]}


def watch(
    run: Annotated[str | None, Field(description="The id of a run; without, all runs are listed, newest first")] = None,
    seconds: Annotated[
        float, Field(description=f"How long to wait for its end, at most {MOST_SECONDS}", ge=0, le=MOST_SECONDS)
    ] = 0,
) -> Answer:
    """Tell how a run goes: its state and phase, newest figures, what the curves show, the answers, the evaluation."""
    if run is not None:
        return dict(_api().watch(run, seconds=seconds).to_dict())
    watching = importlib.import_module("lorafit.watching")
    return {"runs": [watching.line(one) for one in watching.known_runs().runs()]}


def start(
    plan: Annotated[dict[str, Any], Field(description="A whole plan, as advise returns it")],
    data: Annotated[str, Field(description="A file on this machine, or a data set of the Hub, which is fetched")],
    prompts: Annotated[list[str] | None, Field(description="Questions to ask the model before and after")] = None,
    device: Annotated[str | None, Field(description="Such as cuda:0 or cpu; without, the first device")] = None,
    settings: Settings = None,
) -> Answer:
    """Start a training run on this machine and return at once; it goes on by itself. Ask watch how it goes."""
    run = _api().train(
        FinetunePlan.from_dict(plan), data, device=device, prompts=tuple(prompts or ()), **_settings(settings)
    )
    return {"run": importlib.import_module("lorafit.watching").line(run)}


def _api() -> Any:
    """Return the functions, imported with the first question: a client waits for the list of tools."""
    return importlib.import_module("lorafit.api")


def _model_or_plan(model: str | None, plan: Mapping[str, Any] | None) -> str | FinetunePlan:
    if (model is None) == (plan is None):
        raise PlanError("model", "must be given, or else a plan, but not both", None, "Give one of the two")
    return FinetunePlan.from_dict(plan) if plan is not None else str(model)


def _settings(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return fields of a plan that are passed on by their names, which no other argument has.

    Raises:
        PlanError: If one is no field of a plan.
    """
    fields = {*FinetunePlan.__dataclass_fields__} - {"method", "model_name_or_path"}
    wrong = next((name for name in given or {} if name not in fields), None)
    if wrong is not None:
        raise PlanError(f"settings: {wrong}", "is not a field of a plan", None, nearest(wrong, sorted(fields)))
    return dict(given or {})


def _brief(variant: Answer) -> Answer:
    """Return a variant without what makes a table of many long: the parts of the memory, and the assumptions."""
    kept = ("used_bytes", "spare_bytes", "verdict", "trainable_params")
    return {
        "settings": variant["settings"],
        **{name: variant["estimate"][name] for name in kept if "estimate" in variant},
        **({"refusal": variant["refusal"]} if "refusal" in variant else {}),
    }


class _Server(MCPServer[Any]):
    """Answers with plain JSON, and everything that goes wrong in one sentence."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Return what a tool answers; a refusal is a result that says so."""
        try:
            self._require_known(name, arguments)
            answer = await super().call_tool(name, arguments, context)
        except (ToolError, LorafitError) as error:
            sentence = str(_refusal(name, error))
            return CallToolResult(content=[TextContent(type="text", text=sentence)], is_error=True)
        text = json.dumps(answer.structured_content, ensure_ascii=False)
        return CallToolResult(
            content=[TextContent(type="text", text=text)], structured_content=answer.structured_content
        )

    def _require_known(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Refuse a tool that there is not, and an argument that would be passed over.

        Raises:
            PlanError: If there is no such tool or argument.
        """
        schema = self._tool_input_schema(name)
        if schema is None:
            if name == start.__name__:
                way_out = "Whoever set it up can add --allow-start to its arguments"
                raise PlanError(name, "is not allowed by this server", None, way_out)
            raise PlanError("tool", "must be one that this server lists", name)
        known = schema.get("properties", {})
        wrong = next((given for given in arguments if given not in known), None)
        if wrong is not None:
            raise PlanError(f"{name}: {wrong}", "is not an argument", None, nearest(wrong, [*known]))


def _refusal(name: str, error: Exception) -> LorafitError:
    """Return why a tool gave no answer, as one sentence."""
    if isinstance(error, LorafitError):
        return error
    cause = error.__cause__ or error
    if not isinstance(cause, ValidationError):
        return told(cause)
    first = cause.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "missing":
        return PlanError(f"{name}: {where}", "is missing", None, "Add it")
    rule = str(first["msg"]).replace("Input should be", "must be", 1)
    return PlanError(f"{name}: {where}", clipped(rule, 120), first["input"])


def server(*, allow_start: bool) -> MCPServer[Any]:
    """Return the server with its tools; the one that acts only where that is allowed."""
    made = _Server("lorafit", title="LoRAFit", instructions=INSTRUCTIONS, log_level="ERROR")
    looking = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    acting = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
    tools: Sequence[Callable[..., Answer]] = (advise, estimate, compare, watch)
    for tool in tools:
        made.add_tool(tool, description=inspect.getdoc(tool), annotations=looking)
    if allow_start:
        made.add_tool(start, description=inspect.getdoc(start), annotations=acting)
    return made


def serve(*, allow_start: bool) -> None:
    """Serve the client at standard input and output until it closes them; ends what it started to compute with."""
    try:
        server(allow_start=allow_start).run("stdio")
    finally:
        if _LIBRARY in sys.modules:
            sys.modules[_LIBRARY].stop()
