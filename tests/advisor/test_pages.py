"""What the advice looks like: the page, the decision tree, the map, and the command line."""

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from advisor import Situation, advise, cheatsheet, tree
from advisor.__main__ import main
from catalog import gpus, models
from estimator import pricing
from specs import paths
from tests.advisor.pricing import LLAMA, price_of, situation

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys):
    """The command line in this process; ``tests.specs.test_door`` starts one of its own."""

    def called(*arguments):
        capsys.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return called


def test_the_cheat_sheet_names_verdict_settings_memory_and_sources():
    asked = situation(dataset_rows=5_000)
    page = cheatsheet.markdown(asked, advise(asked, price=price_of(asked)))
    assert "**LoRA fits:" in page
    for heading in ("## Settings", "## Memory by part", "## Other methods", "## If it goes wrong", "## Sources"):
        assert heading in page
    assert "| `learning_rate` | 1.3e-4 |" in page
    assert re.search(r"\| QLoRA \(4-bit\) \| \d+ x \d+ \| [\d.]+ GiB \|", page)  # each with the batch it is priced for
    assert "https://github.com/thinking-machines-lab/tinker-cookbook" in page
    assert "tokens/s" in page


def test_the_printable_page_says_what_the_markdown_says_and_lets_no_markup_in():
    asked = situation()
    named = dataclasses.replace(asked, model=dataclasses.replace(asked.model, name="<script>alert(1)</script> & co"))
    result = advise(named, price=price_of(asked))
    page = cheatsheet.page(named, result)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    sheet = cheatsheet.cheat_sheet(named, result)
    for section in sheet.filled:
        assert f"<h2>{section.heading}</h2>" in page
    assert page.count("<tr>") == sum(len(section.rows) + 1 for section in sheet.filled if section.head)
    assert '<a href="https://arxiv.org/abs/2106.09685">' in page


@pytest.mark.skipif(not CHROMIUM.is_file(), reason="Chromium is not installed")
def test_the_printable_page_fits_one_sheet_of_paper(tmp_path):
    asked = situation(model="meta-llama/Llama-3.1-70B", gpu="12 GiB", dataset_rows=300)
    page, paper = tmp_path / "sheet.html", tmp_path / "sheet.pdf"
    page.write_text(cheatsheet.page(asked, advise(asked, price=price_of(asked))), encoding="utf-8")
    command = ["--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={paper}", page.as_uri()]
    subprocess.run(
        [CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", *command], check=True, capture_output=True, timeout=120
    )
    assert len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) == 1


def test_the_tree_asks_until_a_method_fits():
    asked = situation(gpu="16 GiB")
    asked_of = tree.questions(asked, advise(asked, price=price_of(asked)))
    assert [question.answer for question in asked_of] == [False, False, False, True]
    assert asked_of[-1].outcome == "QLoRA (4-bit)"
    assert "of 15" in asked_of[-1].detail


def test_the_map_changes_to_qlora_and_then_to_nothing_as_memory_shrinks():
    cards = [gpus.find(f"{gib} GiB") for gib in (80, 24, 12, 4)]
    asked = [Situation(model=models.find(LLAMA), gpu=card) for card in cards]
    cells = tree.method_map(asked, pricing.price, pricing.least_used_bytes)
    assert [cell.method for cell in cells] == ["lora", "lora", "qlora", None]
    assert all(cell.used_bytes > 0 for cell in cells)


def test_the_command_line_answers_in_json(run):
    done = run("--model", LLAMA, "--vram-gib", "24", "--dataset-rows", "5000", "--pin", "r=32", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {"plan", "advice", "estimate", "fits", "alternatives", "levers", "warnings"} <= set(answer)
    assert answer["plan"]["r"] == 32
    assert {"field", "value", "range", "reason", "source", "confidence"} == set(answer["advice"][0])
    assert answer["estimate"]["used_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--model", "7B", "--vram-gib", "-3"], "GPU memory: must lie between", id="impossible memory"),
        pytest.param(["--model", "7B", "--vram-gib", "24", "--free-gib", "nan"], "--free-gib: must be", id="NaN"),
        pytest.param(
            ["--model", "7B", "--vram-gib", "24", "--price-per-hour", "-3"],
            "--price-per-hour: must be 0 or more",
            id="a negative price",
        ),
        pytest.param(
            ["--model", "7B", "--vram-gib", "24", "--max-length", "512", "--pin", "max_length=1024"],
            "max_length: is set to 512 by --max-length",
            id="set twice",
        ),
        pytest.param(["--model", LLAMA, "--task", "poetry"], "task: must be one of", id="unknown task"),
        pytest.param(["--model", LLAMA, "--dataset-rows", "0"], "dataset_rows: must be at least 1", id="no rows"),
        pytest.param(
            ["--model", LLAMA, "--vram-gib", "x"], "python -m advisor: argument --vram-gib: invalid", id="not a number"
        ),
        pytest.param(["--model", LLAMA, "--pin", "r"], "--pin: must be written as field=value", id="half a pin"),
        pytest.param(
            ["--vram-gib", "24"], "python -m advisor: the following arguments are required: --model", id="no model"
        ),
    ],
)
def test_bad_arguments_get_one_sentence_and_status_2(run, arguments, sentence):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


DATA = ROOT / "assets" / "demo.jsonl"
DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_data_file_is_counted_instead_of_asked_for(run):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    done = run("--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--vram-gib", "8", "--data", str(DATA), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    median, most, longest = answer["data"]["tokens"]
    assert answer["data"]["rows"] == len(DATA.read_text(encoding="utf-8").splitlines())
    assert 10 < median <= most <= longest < 1_000
    assert most <= answer["plan"]["max_length"] < most + 64
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--data", "nofile.jsonl"], "nofile.jsonl: is not a file", id="no such file"),
        pytest.param(["--data", str(DATA), "--dataset-rows", "7"], "--data: is counted, so", id="counted twice"),
        pytest.param(["--data", str(ROOT / "Makefile")], "Makefile: must end in .jsonl", id="no data"),
    ],
)
def test_data_that_cannot_be_counted_is_refused_with_one_sentence(run, arguments, sentence):
    done = run("--model", LLAMA, "--vram-gib", "24", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("row", "arguments", "task", "sentence", "words"),
    [
        pytest.param({"chosen": "Yes.", "rejected": "No."}, [], "preference", "a better and a", "--task", id="pairs"),
        pytest.param(
            {"chosen": "Yes.", "rejected": "No."}, ["--task", "style"], "style", "you chose is style", "style", id="odd"
        ),
        pytest.param({"completion": "Yes.", "label": True}, [], "preference", "KTO", "yet", id="marked answers"),
        pytest.param({"completion": "Yes.", "id": 7}, [], "instruction", "Not read: id (20 rows)", "id", id="unread"),
    ],
)
def test_the_data_decides_the_task_and_the_command_says_so(run, tmp_path, row, arguments, task, sentence, words):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": f"{number}?", **row}) for number in range(20)))
    done = run("--model", DEMO, "--vram-gib", "8", "--data", str(data), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert sentence in done.stderr
    assert words in done.stderr
    usual = run("--model", DEMO, "--vram-gib", "8", "--json", "--task", task, "--dataset-rows", "20")
    rates = [json.loads(out.stdout)["plan"]["learning_rate"] for out in (done, usual)]
    assert rates[0] == rates[1]


def test_a_task_that_answers_serve_is_taken_without_a_word(run):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    done = run("--model", DEMO, "--vram-gib", "8", "--data", str(DATA), "--json", "--task", "style")
    assert (done.returncode, done.stderr) == (0, "")


def test_words_that_identify_the_model_find_its_own_tokenizer(run):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    done = run("--model", "smollm2 135m instruct", "--vram-gib", "8", "--data", str(DATA), "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tokenizer_that_is_not_here_is_stood_in_for_and_named(run):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    done = run("--model", "Qwen/Qwen3-0.6B", "--vram-gib", "8", "--data", str(DATA), "--json")
    assert done.stderr == (
        "Counted with the tokenizer of SmolLM2-135M-Instruct, and the template of the family qwen3.\n"
    )


def test_an_export_is_written_with_the_data_that_the_tool_needs(run, tmp_path):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    data, folder = tmp_path / "Fragen.csv", tmp_path / "out"
    data.write_text("Frage;Antwort\nWas?;Das.\nWie?;So.\n", encoding="utf-8")
    chosen = ("--data", str(data), "--columns", "prompt=Frage", "completion=Antwort", "--export", "axolotl")
    done = run("--model", LLAMA, "--vram-gib", "24", *chosen, "--to", str(folder))
    assert done.returncode == 0, done.stderr
    assert "Wrote 2 rows as Fragen.messages.jsonl.\nRun there: axolotl train axolotl.yaml" in done.stdout
    rows = [json.loads(line)["messages"] for line in (folder / "Fragen.messages.jsonl").read_text().splitlines()]
    assert [[turn["content"] for turn in row] for row in rows] == [["Was?", "Das."], ["Wie?", "So."]]
    assert '"path": "Fragen.messages.jsonl"' in (folder / "axolotl.yaml").read_text()


def test_pairs_that_nobody_looked_at_are_a_dpo_job_too(run):
    asked = ("--data", "elsewhere.jsonl", "--task", "preference", "--export", "llamafactory")
    done = run("--model", LLAMA, "--vram-gib", "24", *asked)
    assert 'stage: "dpo"' in done.stdout
    assert "Nobody looked at it: its rows are taken for prompt + chosen + rejected." in done.stdout


def test_data_that_an_export_names_need_not_be_here(run):
    done = run("--model", LLAMA, "--vram-gib", "24", "--data", "elsewhere.jsonl", "--export", "trl")
    assert done.returncode == 0, done.stderr
    assert "elsewhere.jsonl" in done.stdout


def test_a_plan_that_does_not_fit_names_the_first_change_that_would():
    asked = situation(gpu="16 GiB", goal="quality", dataset_rows=5_000)
    result = advise(asked, rules="classic", price=price_of(asked))
    assert not result.fits
    assert cheatsheet.verdict(asked, result).endswith("method lora -> qlora would fit.")
    assert any(lever.text.startswith("per_device_train_batch_size 4 -> 2: -") for lever in result.levers)
    assert all("('" not in str(caution) for caution in result.warnings)


def test_an_encoder_classifies_without_data_where_classification_is_asked_for(run, tmp_path):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "intermediate_size": 128, **sizes}))
    asked = ("--model", str(tmp_path), "--gpu", "RTX 4090", "--memory-unknown", "--export", "plan")
    done = run(*asked, "--task", "classification")
    assert json.loads(done.stdout)["task_type"] == "SEQ_CLS", done.stderr
    assert "is trained for text classification" in run(*asked).stderr
