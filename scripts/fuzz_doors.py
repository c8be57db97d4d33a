"""Gives hostile arguments and files to every command line, in one process; each must be answered in a sentence.

``python -m scripts.fuzz_doors --count 500 --seed 7`` prints the seed, and every input that was answered badly.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow
import pyarrow.parquet

from specs import FinetunePlan
from specs.errors import LONGEST

MOST_SECONDS, LONGEST_WAIT = 10.0, 60.0
"""What one input may take: seconds of this process's computing, and of waiting on a machine that does other things too,
such as for the first trace of a model."""
MOST_BYTES = 2**30
"""The memory that it may take on top of what the process already has."""

_PROGRESS = "... "
"""How a line begins that only says what is being waited for."""
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


class _TooLongError(BaseException):
    """An input took longer than it may; no handler of an ordinary exception catches it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command line answered one input."""

    status: object
    printed: str
    seconds: float
    grown_bytes: int

    def complaint(self) -> str:
        """Return what is wrong with the answer; empty if it is as it should be."""
        lines = [line for line in self.printed.splitlines() if not line.startswith(_PROGRESS)]
        faults = (
            (self.status not in {0, 1, 2}, f"exit status {self.status}"),
            (self.status == 2 and not lines, "no sentence"),
            ("Traceback" in self.printed or "has a fault" in self.printed, "a fault of its own"),
            (self.status == 2 and len(lines) > 2, f"{len(lines)} lines"),
            (max(map(len, lines), default=0) > LONGEST, "a line that is too long"),
            (self.seconds > MOST_SECONDS, f"{self.seconds:.0f} seconds"),
            (self.grown_bytes > MOST_BYTES, f"{self.grown_bytes >> 20} MiB more memory"),
        )
        return ", ".join(words for is_so, words in faults if is_so)


def fuzz(count: int, seed: int) -> list[str]:
    """Give ``count`` hostile inputs to the command lines; return one line for each that was answered badly."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ |= {
            "LORAFIT_RUNS": str(folder / "runs"),
            "LORAFIT_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "HF_TOKEN": "hf_thisIsNoTokenOfAnybody",
        }
        doors, run_id = _doors(), _busy_run(folder)
        maker = _Maker(random.Random(seed), folder, run_id)  # noqa: S311 - inputs are to be made again from the seed
        found = []
        for number in range(count):
            name, arguments = maker.made()
            answer = _answer(doors[name], arguments)
            if complaint := answer.complaint():
                said = answer.printed[-LONGEST:]
                found.append(f"input {number}: python -m {name} {shown(arguments)}: {complaint}: {said}")
        return found


def shown(arguments: Sequence[str]) -> str:
    """Return arguments on one line of limited length."""
    return " ".join(ascii(text) if len(text) < 200 else f"{text[:80]!a}...[{len(text)}]" for text in arguments)


def _doors() -> dict[str, Callable[[Sequence[str]], int]]:
    """Return the command lines, imported only after the environment is set."""
    from advisor.__main__ import main as advisor  # noqa: PLC0415 - reads the environment on import
    from catalog.__main__ import main as catalog  # noqa: PLC0415
    from estimator.__main__ import main as estimator  # noqa: PLC0415
    from trainer.__main__ import main as trainer  # noqa: PLC0415

    return {"advisor": advisor, "catalog": catalog, "estimator": estimator, "trainer": trainer}


def _busy_run(folder: Path) -> str:
    """Return a run that holds the device for good, so that whatever is started only waits."""
    from trainer.data.source import DataSource  # noqa: PLC0415 - as above
    from trainer.runs.store import Store  # noqa: PLC0415

    store = Store(folder / "runs")
    run = store.create(FinetunePlan.for_method("qlora", MODEL), DataSource(path="data.jsonl"))
    store.claim_next(run.place.device)
    with contextlib.closing(__import__("sqlite3").connect(folder / "runs" / "runs.sqlite")) as db, db:
        db.execute("UPDATE runs SET beat_at = NULL")  # never silent
    return run.id


def _answer(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> Answer:
    """Call a command line as a shell would."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2)]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # makes the peak what is held now
    before, began = _memory_bytes("VmRSS"), time.process_time()
    status: object
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    except _TooLongError:
        status = "none"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    streams[1].flush()
    said = streams[1].buffer.getvalue().decode()
    return Answer(status, said, time.process_time() - began, _memory_bytes("VmHWM") - before)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TooLongError


def _memory_bytes(name: str) -> int:
    """Return a line of ``/proc/self/status``: ``VmRSS`` is the memory now, ``VmHWM`` its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class _Maker:
    """Makes inputs: a command line that works, in which one or several parts are replaced by hostile ones."""

    def __init__(self, chance: random.Random, folder: Path, run_id: str) -> None:
        self._chance, self._folder, self._run_id = chance, folder, run_id
        self._files = [str(path) for path in hostile_files(folder)]
        self._number = 0

    def made(self) -> tuple[str, list[str]]:
        """Return the name of a command line and its arguments."""
        name = self._chance.choice(("advisor", "catalog", "estimator", "trainer", "trainer"))
        arguments: list[str] = getattr(self, f"_{name}")()
        if self._chance.random() < 0.15:
            arguments.insert(self._chance.randrange(len(arguments) + 1), self._word())
        if self._chance.random() < 0.1:
            del arguments[self._chance.randrange(len(arguments))]
        return name, arguments

    def _advisor(self) -> list[str]:
        arguments = ["--model", self._model(), "--gpu", self._some("8 GiB", self._word)]
        for flag in self._chance.sample(["--num-gpus", "--free-gib", "--dataset-rows", "--max-length"], 2):
            arguments += [flag, self._number_text()]
        if self._chance.random() < 0.5:
            arguments += ["--pin", f"{self._field()}={self._value()}"]
        if self._chance.random() < 0.3:
            arguments += [self._chance.choice(("--task", "--goal", "--rules", "--export")), self._word()]
        return [*arguments, "--json"]

    def _catalog(self) -> list[str]:
        return [self._some("models", self._word), self._some("8 GiB", self._model)]

    def _estimator(self) -> list[str]:
        if self._chance.random() < 0.2:
            command, flag = self._chance.choice((("accuracy", "--rows"), ("measure", "--configurations")))
            device = ["--device", "cpu"] if command == "measure" else []
            return [command, flag, self._file(b"model,method,r\n1,2,3\n", ".csv"), *device]
        arguments = [
            "--model",
            self._model(),
            "--method",
            self._some("qlora", self._word),
            "--gpu",
            "8 GiB",
            "--autocast",
        ]
        for flag in ("--r", "--per-device-train-batch-size", "--num-gpus", "--max-length", "--lora-dropout"):
            if self._chance.random() < 0.3:
                arguments += [flag, self._number_text()]
        if self._chance.random() < 0.3:
            flags = ("--dtype", "--optim", "--rank-pattern", "--loss")
            arguments += [self._chance.choice(flags), self._word()]
        return arguments

    def _trainer(self) -> list[str]:
        command = self._chance.choice(("run", "check", "check", "show", "retry", "compare", "export", "other"))
        if command == "run":
            return self._run()
        if command == "check":
            extra = ["--columns", self._word()] if self._chance.random() < 0.3 else ["--show", self._number_text()]
            return ["check", "--data", self._data(), *extra]
        if command == "retry":
            return ["retry", self._id(), "--set", f"{self._field()}={self._value()}", "--detach"]
        if command == "export":
            return ["export", self._id(), "--zip", self._chance.choice(self._files)]
        if command == "other":
            return self._chance.choice(
                (
                    ["resume", self._word()],
                    ["extend", self._word(), self._number_text()],
                    ["merge", self._id(), self._chance.choice(self._files)],
                    ["combine", self._id(), self._word(), "--weights", self._word()],
                    ["chat", self._id()],
                    ["push", self._id(), self._word()],
                    [self._word()],
                )
            )
        return [command, self._id()]

    def _run(self) -> list[str]:
        plan = FinetunePlan.for_method("qlora", MODEL).to_json().encode()
        return ["run", "--plan", self._file(plan, ".json"), "--data", self._data(), "--device", "cpu", "--detach"]

    def _id(self) -> str:
        return self._some(self._run_id, self._word)

    def _model(self) -> str:
        config = json.dumps({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}).encode()
        return self._some(MODEL, lambda: self._some(self._word(), lambda: self._file(config, ".json")))

    def _data(self) -> str:
        row = b'{"prompt": "a", "completion": "b"}\n'
        return self._file(row * 3, self._chance.choice((".jsonl", ".json", ".csv", ".parquet", ".txt", ".tsv", "")))

    def _file(self, content: bytes, ending: str) -> str:
        """Return a hostile file, or one whose content is damaged in some bytes."""
        if self._chance.random() < 0.5:
            return self._chance.choice(self._files)
        damaged = bytearray(content)
        for _ in range(self._chance.randrange(1, 6)):
            place = self._chance.randrange(len(damaged))
            damaged[place : place + self._chance.randrange(3)] = self._chance.choice(
                (b"", b"[", b'"', b"\xff", b"\x00", b"1e999", b"null", bytes([self._chance.randrange(256)]))
            )
        self._number += 1
        path = self._folder / f"damaged-{self._number}{ending}"
        path.write_bytes(damaged)
        return str(path)

    def _some(self, usual: str, other: Callable[[], str]) -> str:
        return usual if self._chance.random() < 0.6 else other()

    def _field(self) -> str:
        return self._chance.choice((*FinetunePlan.__dataclass_fields__, "", "no such field", "\udcff"))

    def _value(self) -> str:
        return self._chance.choice((self._number_text, self._word))()

    def _number_text(self) -> str:
        return self._chance.choice(_NUMBERS)

    def _word(self) -> str:
        return self._chance.choice((*_WORDS, *self._files))


_NUMBERS = (
    *("0", "-1", "1", "7", "1e3", "nan", "inf", "-inf", "1e400", "0x10", "١", "", " ", "1_0", "true", "null"),
    *("9" * 20, "9" * 400, "9" * 5000, "-" + "9" * 30, "0.0000000000000000001", "1" + "0" * 15, "2147483648"),
)
_WORDS = (
    *("", " ", "-", "--", "..", "../../etc/passwd", "/", "~", "~nobody", "%s%n", "{}", "None", "\n\n\n", "\x1b[31mred"),
    *("\udcff\udcfe", "\u202egnp", "\u2028", "名前", "a" * 300, "a" * 100_000, "x/" * 3000, "[" * 5000, "{" * 5000),
    *("'; DROP TABLE runs; --", '{"a": 1}', "[1, 2", "=", "a=b", "=" * 1000, "<script>", "**bold**", "0T", "1e400B"),
    *("7B", "1000000000B", "0B", "nanB", "-7B", "qlora", "all-linear", "q_proj,,", "CON", "$HOME", "`id`"),
)


def hostile_files(folder: Path) -> Iterator[Path]:
    """Make the files and other things that a path can lead to, and yield them."""
    texts: dict[str, bytes] = {
        "empty.jsonl": b"",
        "empty.parquet": b"",
        "blank.json": b" \n" * 1000,
        "deep.json": b"[" * 500_000,
        "deep.jsonl": b'{"prompt": ' + b"[" * 200_000 + b"\n",
        "deeper.json": b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
        "number.json": b'{"r": ' + b"9" * 10_000 + b"}",
        "constants.json": b'{"learning_rate": NaN, "r": Infinity}',
        "latin.txt": b"caf\xe9 " * 1000,
        "nul.csv": b"prompt,completion\n\x00,\x00\n",
        "quote.csv": b'prompt,completion\n"' + b"a,b\n" * 200_000,
        "columns.csv": b",".join(b"c%d" % number for number in range(100_000)) + b"\n1,2\n",
        "line.jsonl": b'{"prompt": "' + b"a" * (34 << 20) + b'"}\n',
        "torn.parquet": b"PAR1" + b"\x00" * 100 + b"PAR1",
        "huge-footer.parquet": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "half.json": b'[{"prompt": "a", "completion"',
        "utf16.json": '[{"prompt": "a", "completion": "b"}]'.encode("utf-16"),
        "surrogate.json": b'[{"prompt": "\\ud800", "completion": "\\udfff"}]',
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
        yield folder / name
    yield from parquet_bombs(folder)
    yield from _no_files(folder)


def parquet_bombs(folder: Path) -> Iterator[Path]:
    """Make parquet files that are small on disk and huge once read."""
    zeros = pyarrow.repeat(pyarrow.scalar(0, pyarrow.int8()), 10_000_000)
    word = pyarrow.DictionaryArray.from_arrays(zeros, pyarrow.array(["a" * 40]))
    yield _written(folder / "many-rows.parquet", pyarrow.table({"text": word}), times=20)
    long = "a" * (100 << 20)
    yield _written(folder / "long-rows.parquet", pyarrow.table({"prompt": [long] * 3, "completion": ["b"] * 3}))
    page = pyarrow.DictionaryArray.from_arrays(zeros[:2000], pyarrow.array([long[: 4 << 20]]))
    yield _written(folder / "repeated-page.parquet", pyarrow.table({"prompt": page, "completion": page}))
    lists = pyarrow.ListArray.from_arrays([0, len(zeros)], zeros)
    yield _written(folder / "list.parquet", pyarrow.table({"text": ["a"], "list": lists}), times=20)
    texts = pyarrow.ListArray.from_arrays([0, 2000], page)
    yield _written(folder / "list-of-pages.parquet", pyarrow.table({"text": ["a"], "list": texts}))


def _written(path: Path, table: pyarrow.Table, *, times: int = 1) -> Path:
    with pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(times):
            writer.write_table(table)
    return path


def _no_files(folder: Path) -> Iterator[Path]:
    """Make what is no regular file: links in a circle and to nothing, a pipe, a socket, a folder, names of bytes."""
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    (folder / "nowhere.json").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.json"))
    (folder / "folder.json").mkdir()
    fifo_model = folder / "fifo-model"
    fifo_model.mkdir()
    os.mkfifo(fifo_model / "config.json")
    os.mkfifo(fifo_model / "tokenizer.json")
    (folder / os.fsdecode(b"bytes-\xff\xfe.jsonl")).write_bytes(b'{"prompt": "a", "completion": "b"}\n')
    names = ("loop.jsonl", "nowhere.json", "pipe.jsonl", "socket.json", "folder.json", "fifo-model", "missing.jsonl")
    yield from (folder / name for name in names)
    yield from (folder / os.fsdecode(b"bytes-\xff\xfe.jsonl"), folder / ("n" * 300), folder / "line\nbreak.jsonl")
    yield from map(Path, ("/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc/self/fd", "/root/.ssh"))


def main(arguments: Sequence[str]) -> int:
    """Fuzz, print what was answered badly, and return the exit status: 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz_doors", description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    given: Any = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    found = fuzz(given.count, seed)
    print("\n".join([*found, f"{given.count} inputs, {len(found)} answered badly, {time.process_time():.1f} s"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
