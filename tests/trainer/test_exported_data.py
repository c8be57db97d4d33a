"""Every export trains on the person's own data as a run does: on the same tokens, for each layout."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_dataset
from trl.scripts.utils import DatasetMixtureConfig

from advisor.export import exported
from specs import PlanError
from tests.trainer.layout_cases import CALLS, PAIRS, PLAIN, TOOLS, Case, chat, each
from trainer.data import conversion, readers
from trainer.data.doctor import examined
from trainer.data.known import training_data
from trainer.data.source import DataSource
from trainer.data.template import chat_template
from trainer.runs.contract import State
from trainer.runs.session import Session
from trainer.worker.rows import tokenized_rows

pytestmark = pytest.mark.filterwarnings("ignore")

QWEN3, TINY, NONE = "qwen3", "tiny", "none"


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model):
    """Model folders by the chat template that they have."""
    found = {TINY: tiny_model}
    for name in (QWEN3, NONE):
        folder = tmp_path_factory.mktemp(name)
        for path in tiny_model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        family = chat_template.of_family(name)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.chat_template = family.source if family else None
        tokenizer.save_pretrained(folder)
        found[name] = folder
    return found


@pytest.fixture
def export(tmp_path, models, plan_of):
    """Writes a case, its export and its converted data into a folder; returns them, and the data as a run takes it."""

    def made(case: Case, name: str, *, model=TINY, folder=tmp_path, **plan):
        path = case.write(folder)
        source = DataSource(path=str(path), **case.options)
        reader = readers.reader(models[model], model_type="llama", name="tiny", counted_by=None)
        known = ("qwen3", "Qwen/Qwen3-0.6B") if model == QWEN3 else ("llama", "tiny")
        data = training_data(source, examined(source, reader.tokenizer), reader, model=known)
        settings = {"method": "lora", "max_length": 1024, "max_steps": 2, **plan}
        export = exported(replace(plan_of(**settings), model_name_or_path=str(models[model])), name, data=data)
        for written, content in export.files.items():
            (folder / written).write_text(content, encoding="utf-8")
        if export.conversion:
            conversion.write_all(source, export.conversion, reader.tokenizer, folder)
        return export, source

    return made


@pytest.fixture
def learned_here(store, place, plan_of, models):
    """Returns the rows that a run learns, and those that it evaluates on."""

    def read(source, model, **plan):
        settings = {"method": "lora", "max_length": 1024, **plan}
        store.create(plan_of(**settings), source, place=place)
        session = Session(store.claim_next(place.device), store, threading.Event())
        with tokenized_rows(session, AutoTokenizer.from_pretrained(models[model])) as rows:
            found = rows.learned.to_list(), rows.held_out.to_list() if rows.held_out else []
        store.enter(session.run.id, State.FAILED)  # the next one may have the device
        return found

    return read


def tokens(rows):
    """Rows as what is learned of them, whatever else stands beside it."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids", "input_ids", "labels")
    return [{name: list(row[name]) for name in names if name in row} for row in rows]


def parts_of(script, monkeypatch, folder):
    """The functions of an exported script, in the folder where its data is."""
    monkeypatch.chdir(folder)
    return runpy.run_path(str(script))


@pytest.mark.parametrize(
    ("case", "model"),
    [
        *(pytest.param(case, model, id=f"{name}, {model}") for name, case in PLAIN.items() for model in (TINY, NONE)),
        *(pytest.param(case, QWEN3, id=f"{name}, {QWEN3}") for name, case in {**PLAIN, **CALLS}.items()),
    ],
)
def test_the_script_learns_the_tokens_of_a_run(case, model, export, learned_here, models, tmp_path, monkeypatch):
    made, source = export(case, "script", model=model)
    script = parts_of(tmp_path / made.main[0], monkeypatch, tmp_path)
    file = made.conversion.name if made.conversion else case.name
    tokenizer = AutoTokenizer.from_pretrained(models[model])
    rows = script["learned"](file, tokenizer, str(tmp_path / "cache"))
    expected, _ = learned_here(source, model)
    assert tokens(rows) == tokens(expected)
    assert any(label != -100 for row in expected for label in row.get("labels", row.get("chosen_ids")))


READ_AS_IT_IS = {
    "script": {
        *("messages", "messages with a system column", "messages in a list", "messages under another name"),
        *("ShareGPT with system", "alpaca with input", "prompt and completion", "question and answer with context"),
        *("csv with semicolons", "columns of a person", "text", "text in a column of a person", "explicit prompt"),
        *("explicit prompt of messages", "implicit prompt", "Orca-DPO", "document and summary"),
    },
    "trl": {"text", "text in a column of a person", "explicit prompt of messages", "implicit prompt"},
    "axolotl": {
        *("messages", "messages with a system column", "messages in a list", "messages under another name"),
        *("ShareGPT with system", "text", "text in a column of a person"),
        *("explicit prompt", "explicit prompt of messages", "implicit prompt"),
    },
    "llamafactory": {
        *("messages", "messages with a system column", "messages in a list", "messages under another name"),
        *("ShareGPT with system", "alpaca with history", "prompt and completion"),
        *("text", "text in a column of a person", "explicit prompt", "Orca-DPO", "document and summary"),
    },
}  # fmt: skip
"""The cases that each tool reads as they are, under the tiny template, which TRL does not know."""


@pytest.mark.parametrize("tool", READ_AS_IT_IS)
def test_data_is_converted_where_a_tool_cannot_read_it_and_only_there(tool, export):
    cases = {name: case for name, case in PLAIN.items() if name not in UNREADABLE.get(tool, ())}
    found = {name for name, case in cases.items() if export(case, tool)[0].conversion is None}
    assert found == READ_AS_IT_IS[tool]


def test_a_conversion_is_said_in_the_file_in_a_sentence(export):
    made, _ = export(PLAIN["messages with a weight"], "script")
    assert made.conversion.why in " ".join(made.main[1].split("\n"))
    assert made.conversion.why == (
        "The script is given chat.messages.jsonl, which LoRAFit writes from chat.jsonl: "
        "it does not understand answers that are not to be learned."
    )


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_the_script_holds_out_the_rows_that_a_run_holds_out(share, export, learned_here, models, tmp_path, monkeypatch):
    case = Case("chat.jsonl", [{"messages": chat(number)} for number in [*"abcdefgh"] * 2])
    if not share:
        case = PLAIN["splits"]
    made, source = export(case, "script", eval_split=share)
    script = parts_of(tmp_path / made.main[0], monkeypatch, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(models[TINY])
    _, expected = learned_here(source, TINY, eval_split=share)
    if share:
        rows = script["learned"](case.name, tokenizer, str(tmp_path / "cache"))
        rows = rows.select(script["held_out_rows"](rows["group"]))
    else:
        rows = script["learned"](made.conversion.evaluation_name, tokenizer, str(tmp_path / "cache"))
    assert tokens(rows) == tokens(expected)
    assert expected


@pytest.mark.parametrize("name", PLAIN)
def test_the_script_trains_two_steps(name, export, models, tmp_path, monkeypatch, capsys):
    made, _ = export(PLAIN[name], "script")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [made.main[0], "--model", str(models[TINY])])
    runpy.run_path(made.main[0], run_name="__main__")
    history = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2]
    assert Path("output/adapter_model.safetensors").is_file()


def trainer_of_trl(folder, made, model):
    """The trainer of ``trl sft`` or ``trl dpo`` for an exported configuration, with its data prepared."""
    pairs = made.command.startswith("trl dpo")
    kinds = (ScriptArguments, DPOConfig if pairs else SFTConfig, ModelConfig, DatasetMixtureConfig)
    arguments = ["--config", made.main[0], "--use_cpu", "true", "--report_to", "none"]
    script, training, _, mixture = TrlParser(kinds).parse_args_and_config(arguments)
    if mixture.datasets:
        data = get_dataset(mixture)
    else:
        from datasets import load_dataset  # noqa: PLC0415

        data = load_dataset(str(folder / script.dataset_name))
    held_out = data[script.dataset_test_split] if training.eval_strategy != "no" else None
    return (DPOTrainer if pairs else SFTTrainer)(
        model=str(model), args=training, train_dataset=data[script.dataset_train_split], eval_dataset=held_out
    )


def as_trl_learns(rows):
    """Rows of TRL with labels in place of its masks."""
    found = []
    for row in rows:
        mask = row.get("assistant_masks") or row.get("completion_mask")
        labels = row.get("labels") or row.get("input_ids")
        if mask:
            labels = [token if learn else -100 for token, learn in zip(row["input_ids"], mask, strict=True)]
        found.append({**row, "labels": labels} if "input_ids" in row else row)
    return tokens(found)


@pytest.mark.parametrize(
    ("case", "model"),
    [
        *(pytest.param(case, QWEN3, id=name) for name, case in {**PLAIN, **CALLS}.items()),
        *(pytest.param(PLAIN[name], NONE, id=f"{name}, no template") for name in ("messages", "text", "Orca-DPO")),
        *(pytest.param(PLAIN[name], TINY, id=f"{name}, unknown template") for name in ("messages", "explicit prompt")),
    ],
)
def test_trl_reads_what_a_run_learns(case, model, export, learned_here, models, tmp_path, monkeypatch):
    made, source = export(case, "trl", model=model)
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of_trl(tmp_path, made, models[model])
    expected, _ = learned_here(source, model)
    answers = sum(row["labels"] != row["input_ids"] for row in expected if "labels" in row)
    found = as_trl_learns(trainer.train_dataset)
    if made.conversion and made.conversion.dialect == "answers":
        assert sum(any(label != -100 for label in row["labels"]) for row in found) >= answers
    else:
        assert found == tokens(expected)


NEEDS = {"axolotl": ("axolotl", "addict"), "llamafactory": ("llamafactory",)}
UNREADABLE = {
    "axolotl": set(),
    "llamafactory": {"messages with a weight", "prompt of messages with an answer"},
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
@pytest.mark.parametrize("model", [QWEN3, NONE])
def test_the_tools_own_loader_reads_what_is_learned(tool, model, export, learned_here, models, tmp_path):
    # Axolotl's loader also needs addict, which comes with its other packages.
    if any(importlib.util.find_spec(name) is None for name in NEEDS[tool]):
        pytest.skip(f"{' or '.join(NEEDS[tool])} is not installed")
    cases = {**PLAIN, **(CALLS if model == QWEN3 else {})}
    cases = {name: case for name, case in cases.items() if name not in UNREADABLE[tool]}
    folders, expected = {}, {}
    for number, (name, case) in enumerate(cases.items()):
        folders[name] = tmp_path / str(number)
        folders[name].mkdir()
        _, source = export(case, tool, model=model, folder=folders[name])
        expected[name], _ = learned_here(source, model)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.trainer.reading", tool, *map(str, folders.values())]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(zip(folders, json.loads(done.stdout.splitlines()[-1]), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(models[model])
    wrong = {
        name: (spoken(rows, tokenizer), spoken(expected[name], tokenizer))
        for name, rows in found.items()
        if spoken(rows, tokenizer) != spoken(expected[name], tokenizer)
    }
    assert wrong == {}


def spoken(rows, tokenizer):
    """What rows teach, in one text for each side of a pair: tools may give each answer a row of its own.

    The empty thoughts of Qwen3 are left out, and the tag that opens a thought: to Axolotl both belong to the question.
    """
    sides = zip(*(_learned(row, tokenizer) for row in rows), strict=True)
    return ["".join("".join(side).replace("<think>\n\n</think>", "").replace("<think>", "").split()) for side in sides]


def _learned(row, tokenizer):
    if isinstance(row.get("prompt"), str):  # Axolotl leaves the tokens of a pair to TRL
        end = tokenizer.eos_token
        return [row[side].removesuffix(end) + end for side in ("chosen", "rejected")]
    kinds = ("labels",) if "labels" in row else ("chosen_labels", "rejected_labels")
    if "chosen_ids" in row:
        kinds = ("chosen_ids", "rejected_ids")
    if "input_ids" in row and "labels" not in row:
        kinds = ("input_ids",)
    return [tokenizer.decode([token for token in row[kind] if token != -100]) for kind in kinds]


KEYS = json.loads((Path(__file__).parents[1] / "golden" / "export_data_keys.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in {**PLAIN, **CALLS}.items()])
def test_data_is_described_in_keys_that_the_tool_documents(case, export, tmp_path):
    made, _ = export(case, "axolotl", model=QWEN3)
    values = yaml.safe_load(made.main[1])
    for entry in (*values["datasets"], *values.get("test_datasets", ())):
        assert set(entry) <= set(KEYS["axolotl"]["preference" if "rl" in values else "answers"])
    if case in [PLAIN[name] for name in UNREADABLE["llamafactory"]]:
        return  # refused: see below
    described = json.loads(export(case, "llamafactory", model=QWEN3)[0].files["dataset_info.json"])
    for entry in described.values():
        assert set(entry) <= set(KEYS["llamafactory"]["entry"])
        assert set(entry["columns"]) <= set(KEYS["llamafactory"]["columns"])
        assert set(entry.get("tags", ())) <= set(KEYS["llamafactory"]["tags"])
        assert (tmp_path / entry["file_name"]).is_file()


@pytest.mark.parametrize(("tool", "stage"), [("trl", "beta"), ("axolotl", "rl_beta"), ("llamafactory", "pref_beta")])
def test_pairs_are_a_dpo_job_with_the_rate_of_the_plan(tool, stage, export):
    made, _ = export(PAIRS["explicit prompt"], tool, learning_rate=5e-6, model=QWEN3)
    values = yaml.safe_load(made.main[1])
    assert values["learning_rate"] == 5e-6
    assert values[stage] == DPOConfig(output_dir="output", use_cpu=True, bf16=False).beta
    assert (values.get("stage"), values.get("rl"), made.command.split()[1]) in {
        ("dpo", None, "train"), (None, "dpo", "train"), (None, None, "dpo"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "tool", "words"),
    [
        pytest.param(
            PLAIN["messages with a weight"].rows, "llamafactory", "answers that are not to be learned", id="weights"
        ),
        pytest.param(
            [{"prompt": "Say it.", "chosen": "One.", "rejected": "Two.", "tools": TOOLS}] * 2,
            "axolotl", "tools, which Axolotl cannot be told", id="tools of pairs",
        ),
        pytest.param(
            each(lambda n: {"prompt": n, "completion": n, "label": True}), "script", "answers marked good", id="KTO"
        ),
        pytest.param(
            each(lambda n: {"text": n, "label": "a"}), "trl", "on which LoRAFit tells TRL", id="classification"
        ),
    ],
)  # fmt: skip
def test_what_a_tool_cannot_be_told_is_refused_in_a_sentence(rows, tool, words, export):
    with pytest.raises(PlanError, match=words) as refused:
        export(Case("a.jsonl", rows), tool, model=QWEN3)
    assert len(str(refused.value)) <= 300


def test_a_plan_whose_model_cannot_be_its_own_reference_is_refused_for_pairs(export):
    with pytest.raises(PlanError, match="must keep the base model unchanged"):
        export(PAIRS["explicit prompt"], "script", method="full")


def test_the_plan_is_run_with_all_that_was_said_about_the_data(export):
    made, _ = export(PLAIN["columns of a person"], "plan")
    assert made.command.endswith("--data Fragen.csv --columns prompt=Frage completion=Antwort")
