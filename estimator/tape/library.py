"""Where tapes come from: those that are shipped, the cache on disk, and the tracer process for all others."""

import atexit
import contextlib
import functools
import gzip
import hashlib
import json
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from estimator.only_one import only_one
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import LIBRARIES, Recipe, recipe
from estimator.tape.tape import FORMAT, Tape
from estimator.tape.tracer_process import Progress, Question, TracerProcess
from specs import FinetunePlan, GpuSpec, ModelSpec, TraceError
from specs.paths import REPO, cache

_SHIPPED = REPO / "assets" / "tapes"
_KEPT_IN_MEMORY = 512
_CHECKSUM_BYTES = 32
_TRACED_BY = ("estimator/tracer", "trainer/model")
"""Folders whose code decides what a recipe's tape is: kept tapes of other code are traced again."""
_DAMAGE = (
    OSError,
    KeyError,
    ValueError,
    EOFError,
    RuntimeError,
    zlib.error,
    struct.error,
    zipfile.BadZipFile,
    TraceError,
)
"""What reading a damaged archive or file raises; zipfile calls a flipped bit a password or an unknown method."""


def tape_for(
    model: ModelSpec,
    plan: FinetunePlan,
    *,
    progress: Progress | None = None,
    gpu: GpuSpec | None = None,
    conditions: Conditions | None = None,
) -> Tape:
    """Return the tape that prices a plan for a model: shipped, cached, or traced now.

    Args:
        model: The base model.
        plan: The plan; batch, length, rank and optimizer do not change the tape, except for its regime of sizes.
        progress: Told what is happening while a trace runs.
        gpu: The card, which decides the attention kernel; None for a card with all kernels.
        conditions: The conditions of the step; None for LoRAFit's own trainer.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    return _LIBRARY.tape(recipe(model, plan, conditions or Conditions(), gpu), progress or silent)


def is_warm(
    model: ModelSpec, plan: FinetunePlan, *, gpu: GpuSpec | None = None, conditions: Conditions | None = None
) -> bool:
    """Return whether the tape of a plan is available without tracing."""
    return _LIBRARY.is_warm(recipe(model, plan, conditions or Conditions(), gpu))


def shipped_file(wanted: Recipe, folder: Path = _SHIPPED) -> Path:
    """Return the archive that holds the tapes of a recipe's model."""
    return folder / f"{hashlib.sha256(wanted.config_json.encode()).hexdigest()[:16]}.zip"


def traced(wanted: Recipe) -> Tape:
    """Return a tape straight from the tracer.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    return Tape.from_json(_LIBRARY.tracer.ask(wanted, silent))


def answered(asked: Question, progress: Progress) -> str:
    """Return the tracer's answer to any question.

    Raises:
        LorafitError: If there is none.
    """
    return _LIBRARY.tracer.ask(asked, progress)


def stop() -> None:
    """End the tracer process if one runs."""
    _LIBRARY.tracer.stop()


class TapeLibrary:
    """Tapes in memory, in the shipped archives, on disk, and from the tracer."""

    def __init__(self) -> None:
        self.tracer = TracerProcess()
        self._tapes: OrderedDict[str, Tape] = OrderedDict()
        self._lock = threading.Lock()

    def tape(self, wanted: Recipe, progress: Progress) -> Tape:
        """Return the tape of a recipe from the first place that has it."""
        with self._lock:
            found = self._tapes.get(wanted.key)
            if found is not None:
                self._tapes.move_to_end(wanted.key)
                return found
        tape = shipped(wanted) or kept(wanted) or self._traced(wanted, progress)
        with self._lock:
            self._tapes[wanted.key] = tape
            while len(self._tapes) > _KEPT_IN_MEMORY:
                self._tapes.popitem(last=False)
        return tape

    def is_warm(self, wanted: Recipe) -> bool:
        """Return whether a tape is available without tracing."""
        with self._lock:
            if wanted.key in self._tapes:
                return True
        return shipped(wanted) is not None or kept(wanted) is not None

    def _traced(self, wanted: Recipe, progress: Progress) -> Tape:
        """Trace a recipe and keep its tape, unless another process does so meanwhile."""
        waiting = functools.partial(progress, "waiting for another estimate that traces this model")
        with only_one(_cache_file(wanted).with_suffix(".lock"), waiting):
            tape = kept(wanted)
            if tape is None:
                tape = Tape.from_json(self.tracer.ask(wanted, progress))
                keep(wanted, tape)
        return tape


_LIBRARY = TapeLibrary()
atexit.register(_LIBRARY.tracer.stop)


def silent(_: str) -> None:
    """Tell nobody what is happening."""


def shipped(wanted: Recipe, folder: Path = _SHIPPED) -> Tape | None:
    """Return a tape that comes with the project; a damaged archive counts as missing."""
    try:
        with zipfile.ZipFile(shipped_file(wanted, folder)) as archive:
            return Tape.from_json(archive.read(f"{wanted.key}.json").decode())
    except _DAMAGE:
        return None


def kept(wanted: Recipe) -> Tape | None:
    """Return a tape from disk; a damaged file, or that of another recipe, counts as missing and is rewritten."""
    try:
        content = _cache_file(wanted).read_bytes()
        checksum, packed = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        return Tape.from_json(gzip.decompress(packed).decode()) if checksum == _checksum(wanted, packed) else None
    except _DAMAGE:
        return None


def keep(wanted: Recipe, tape: Tape) -> None:
    """Write a tape to disk atomically; if the disk is full or read-only, the tape is simply not cached."""
    file = _cache_file(wanted)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # One name: what a killed process was writing is overwritten. Only the owner of the lock writes.
        part = file.with_suffix(".part")
        packed = gzip.compress(tape.to_json().encode())
        part.write_bytes(_checksum(wanted, packed) + packed)
        part.replace(file)


def _checksum(wanted: Recipe, packed: bytes) -> bytes:
    return hashlib.sha256(wanted.key.encode() + packed).digest()


def _cache_file(wanted: Recipe) -> Path:
    return cache() / "tapes" / stamp() / f"{wanted.key}.tape"


@functools.cache
def stamp() -> str:
    """Return what stands for all that a recipe's tape depends on: libraries, tracer, and the trainer's model."""
    installed = {name: _version(name) for name in LIBRARIES}
    told = hashlib.sha256(json.dumps([FORMAT, installed], sort_keys=True).encode())
    for folder in _TRACED_BY:
        for file in sorted((REPO / folder).glob("*.py")):
            told.update(file.read_bytes())
    return told.hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
