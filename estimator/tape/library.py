"""Where tapes come from: those that are shipped, the cache on disk, and the tracer process for all others."""

import atexit
import contextlib
import gzip
import hashlib
import json
import os
import threading
import zipfile
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import LIBRARIES, Recipe, recipe
from estimator.tape.tape import FORMAT, Tape
from estimator.tape.tracer_process import Progress, TracerProcess
from specs import FinetunePlan, GpuSpec, ModelSpec, TraceError
from specs.paths import REPO

_SHIPPED = REPO / "assets" / "tapes"
_KEPT_IN_MEMORY = 512


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
    return _LIBRARY.tape(recipe(model, plan, conditions or Conditions(), gpu), progress or _silent)


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
    return Tape.from_json(_LIBRARY.tracer.ask(wanted, _silent))


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
        tape = _shipped(wanted) or _cached(wanted)
        if tape is None:
            tape = Tape.from_json(self.tracer.ask(wanted, progress))
            _cache(wanted, tape)
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
        return _shipped(wanted) is not None or _cached(wanted) is not None


_LIBRARY = TapeLibrary()
atexit.register(_LIBRARY.tracer.stop)


def _silent(_: str) -> None:
    return None


def _shipped(wanted: Recipe) -> Tape | None:
    try:
        with zipfile.ZipFile(shipped_file(wanted)) as archive:
            return Tape.from_json(archive.read(f"{wanted.key}.json").decode())
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError, TraceError):
        return None


def _cached(wanted: Recipe) -> Tape | None:
    """Return a tape from disk; a broken file counts as missing and is rewritten."""
    try:
        return Tape.from_json(gzip.decompress(_cache_file(wanted).read_bytes()).decode())
    except (OSError, EOFError, UnicodeDecodeError, TraceError):
        return None


def _cache(wanted: Recipe, tape: Tape) -> None:
    """Write a tape to disk atomically; if the disk is full or read-only, the tape is simply not cached."""
    file = _cache_file(wanted)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        part.write_bytes(gzip.compress(tape.to_json().encode()))
        part.replace(file)


def _cache_file(wanted: Recipe) -> Path:
    root = Path(os.environ.get("LORAFIT_CACHE", Path.home() / ".cache" / "lorafit")).expanduser()
    installed = {name: _version(name) for name in LIBRARIES}
    stamp = hashlib.sha256(json.dumps([FORMAT, installed], sort_keys=True).encode()).hexdigest()[:12]
    return root / "tapes" / stamp / f"{wanted.key}.json.gz"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
