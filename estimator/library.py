"""Where tapes come from: the shipped ones, the cache on disk, and the tracer process for all others.

Imports no torch: the tracer is a process of its own, started when first needed, restarted when it died.
"""

import atexit
import contextlib
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from estimator.conditions import Conditions
from estimator.estimate import MemoryEstimate, estimate, peak_allocated_bytes
from estimator.kernels import fallback_warning, kernel_choice
from estimator.overhead import context_bytes, worker_bytes
from estimator.recipe import LIBRARIES, Recipe, is_masked, recipe
from estimator.reservation import Circumstances
from estimator.sharding import gpus_needed as smallest_number
from estimator.sharding import on_each_gpu, replica, share, with_room
from estimator.tape import FORMAT, Tape
from specs import FinetunePlan, GpuSpec, LorafitError, ModelSpec, PlanError, SpecError, TraceError
from specs.plan import Sharding

Progress = Callable[[str], None]

_ROOT = Path(__file__).resolve().parent.parent
_SHIPPED = _ROOT / "assets" / "tapes"
_TIMEOUT_SECONDS = 120.0
_KEPT_IN_MEMORY = 512
_KINDS: dict[str, type[LorafitError]] = {"SpecError": SpecError, "PlanError": PlanError}


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
        plan: The plan; batch, length, rank and optimizer do not change the tape but for its regime.
        progress: Told what is happening while a trace runs.
        gpu: The card, which chooses the attention kernel; None for a card with all kernels.
        conditions: The loop around the step; None for LoRAFit's own trainer.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    return _LIBRARY.tape(recipe(model, plan, conditions or Conditions(), gpu), progress or _silent)


def is_warm(
    model: ModelSpec, plan: FinetunePlan, *, gpu: GpuSpec | None = None, conditions: Conditions | None = None
) -> bool:
    """Return whether the tape of a plan is there without a trace."""
    return _LIBRARY.is_warm(recipe(model, plan, conditions or Conditions(), gpu))


def price(
    model: ModelSpec,
    plan: FinetunePlan,
    gpu: GpuSpec,
    *,
    progress: Progress | None = None,
    circumstances: Circumstances | None = None,
) -> MemoryEstimate:
    """Return the memory of a plan for a model on a card.

    Args:
        model: The base model.
        plan: The plan.
        gpu: The card.
        progress: Told what is happening while a trace runs.
        circumstances: How PyTorch reserves and transformers loads; None as LoRAFit's trainer has it.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    found = estimate(tape_for(model, plan, progress=progress, gpu=gpu), plan, gpu, circumstances)
    choice = kernel_choice(model, plan, gpu, masked=is_masked(plan))
    told = (fallback_warning(choice, model, plan), _beyond_positions(model, plan), _other_loss(plan))
    return replace(found, warnings=(*found.warnings, *(text for text in told if text is not None)))


def least_used_bytes(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, *, progress: Progress | None = None) -> int:
    """Return bytes that a plan certainly uses, without the allocator's replay that makes ``price`` slow.

    Leaves out the allocator's cache and what strategies that divide the model change: of those it knows nothing.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    if plan.sharding not in {"none", "ddp"}:
        return 0
    allocated = peak_allocated_bytes(tape_for(model, plan, progress=progress, gpu=gpu), plan, gpu)
    return allocated + _beyond_pytorch(gpu)


def gpus_needed(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, *, progress: Progress | None = None) -> int | None:
    """Return how many of these cards a plan needs; None if no number of them suffices.

    A plan that names no strategy for several GPUs is divided by FSDP.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    several = strategy(plan)
    one = replace(plan, num_gpus=1, sharding="none", offload="none")
    tape = tape_for(model, one, progress=progress, gpu=gpu)
    alone = estimate(tape, one, gpu if several == "ddp" else with_room(gpu))
    components = {**alone.components, "overhead": _beyond_pytorch(gpu)}
    whole = replica(tape, one)

    def used_on_each(num_gpus: int) -> int:
        if num_gpus == 1:
            least = least_used_bytes(model, one, gpu)
            return least if least > gpu.usable_bytes else estimate(tape, one, gpu).used_bytes
        held = share(whole, replace(plan, num_gpus=num_gpus, sharding=several))
        return sum(on_each_gpu(components, whole, held).values())

    return smallest_number(used_on_each, gpu.usable_bytes)


def strategy(plan: FinetunePlan) -> Sharding:
    """Return how several cards share a plan: as it says, or by FSDP where it is for one."""
    return plan.sharding if plan.sharding != "none" else "fsdp"


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


class TracerProcess:
    """The tracer: one process, one request at a time, started on demand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process' id, or None while none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, wanted: Recipe, progress: Progress) -> str:
        """Return the tape of a recipe as JSON text.

        Raises:
            LorafitError: If the tracer says that there is none, or dies twice.
        """
        with self._lock:
            for _ in range(2):
                answer = self._asked(wanted, progress)
                if answer is not None:
                    break
                self._ended()
            else:
                raise TraceError("tracer", "ended before it answered", None, "Free some memory and try again")
        if "error" in answer:
            raise _as_error(answer)
        return str(answer["tape"])

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._ended()

    def _asked(self, wanted: Recipe, progress: Progress) -> dict[str, Any] | None:
        """Return the answer to one request, or None if the process died over it."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            return None
        timer = threading.Timer(_TIMEOUT_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(wanted.to_json() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                elif "ready" not in message:
                    return message
        except (BrokenPipeError, ValueError, OSError):
            return None
        finally:
            timer.cancel()
        return None

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "estimator.tracer"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _ended(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


class TapeLibrary:
    """Tapes in memory, in the shipped archives, on disk, and from the tracer."""

    def __init__(self) -> None:
        self.tracer = TracerProcess()
        self._tapes: OrderedDict[str, Tape] = OrderedDict()
        self._lock = threading.Lock()

    def tape(self, wanted: Recipe, progress: Progress) -> Tape:
        """Return the tape of a recipe from wherever it is first found."""
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
        """Return whether a tape is there without a trace."""
        with self._lock:
            if wanted.key in self._tapes:
                return True
        return _shipped(wanted) is not None or _cached(wanted) is not None


_LIBRARY = TapeLibrary()
atexit.register(_LIBRARY.tracer.stop)


def _beyond_pytorch(gpu: GpuSpec) -> int:
    return worker_bytes() if gpu.is_cpu else context_bytes(gpu)


def _beyond_positions(model: ModelSpec, plan: FinetunePlan) -> str | None:
    limit = model.max_position_embeddings
    if limit is None or plan.max_length <= limit:
        return None
    return f"{model.name} was made for {limit:,} tokens, fewer than max_length ({plan.max_length:,}): shorten it."


def _other_loss(plan: FinetunePlan) -> str | None:
    if plan.loss != "fused":
        return None
    return (
        "The fused loss needs the package liger_kernel and a trainer that calls it: TRL 1.16 does not, and a run "
        "started here takes full or chunked."
    )


def _silent(_: str) -> None:
    return None


def _as_error(answer: dict[str, Any]) -> LorafitError:
    """Return the tracer's error with its sentence as it was."""
    error = _KINDS.get(str(answer.get("kind")), TraceError)(str(answer.get("subject", "trace")), "failed")
    error.args = (str(answer["error"]),)
    return error


def _shipped(wanted: Recipe) -> Tape | None:
    try:
        with zipfile.ZipFile(shipped_file(wanted)) as archive:
            return Tape.from_json(archive.read(f"{wanted.key}.json").decode())
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError, TraceError):
        return None


def _cached(wanted: Recipe) -> Tape | None:
    """Return a tape from disk; a broken file counts as none and is written anew."""
    try:
        return Tape.from_json(gzip.decompress(_cache_file(wanted).read_bytes()).decode())
    except (OSError, EOFError, UnicodeDecodeError, TraceError):
        return None


def _cache(wanted: Recipe, tape: Tape) -> None:
    """Write a tape to disk in one piece; a full or read-only disk only costs the cache."""
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
