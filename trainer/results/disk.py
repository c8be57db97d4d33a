"""What LoRAFit takes on the disk, kind by kind, and its removal: never what a run or an evaluation is using.

Links are neither followed nor removed. What is recorded for estimates is told by ``estimator.cached``.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import constants

from specs import LorafitError, RunError
from specs.paths import cache
from specs.taken import Taken, size_bytes, taken
from trainer import files
from trainer.results import evaluation
from trainer.runs import processes
from trainer.runs.contract import CHECKPOINTS, Run, State
from trainer.runs.export import RESULT, WRITTEN
from trainer.runs.storage.database import UPLOADS
from trainer.runs.storage.shelf import TRASH, TRASH_DAYS
from trainer.runs.store import Store

COMBINED = "combined"
"""Where combined adapters lay within the runs folder before they were runs."""
KINDS = (
    *("checkpoints", "merged", "combined", "trash", "uploads", "datasets"),
    *("tapes", "old-tapes", "speeds", "hub", "models", "wheels"),
)
"""The kinds that can be removed."""

_NOTED = (".name.json", ".columns.json")
"""The endings of what is noted beside an upload."""
_DELETE = f"Not removed here. Delete single runs: they stay in the trash for {TRASH_DAYS} days."
_UNSAVED = "Not removed: they hold what these runs learned. Resume the runs, or delete them."
_NAMED = "Not removed: their runs could not be resumed or repeated. Delete those, and empty the trash."
_BUSY = "Not removed: runs or evaluations are using them."
_ANEW = "Checkpoints were removed to free space: Resume and Train longer begin anew."


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What was removed of one kind."""

    kind: str
    num_bytes: int
    left: tuple[str, ...] = ()
    """A sentence for each thing that stayed."""


def found(store: Store, kept: Iterable[Taken]) -> list[Taken]:
    """Return all that LoRAFit takes on the disk, by kind: what can be removed first, and what takes most of that first.

    Kinds of which there is nothing are left out.

    Args:
        store: Where the runs are kept.
        kept: What is kept of estimates in the cache.
    """
    runs = store.runs()
    busy = [run for run in runs if not run.is_over or _is_silent(run) or _is_evaluated(store, run)]
    of_estimates = [_plain(store, one.kind, one.label, one.paths, one.cost) for one in kept]
    kinds = [*_of_runs(store, runs, busy), *_data(store, busy), *of_estimates, *_fetched(store, busy)]
    rest = sum(map(size_bytes, (store.folder, cache()))) - sum(one.num_bytes for one in kinds)
    own = "Not removed: LoRAFit's own records, and whatever else lies there."
    kinds += [Taken(kind="others", label="Other files", number=1, num_bytes=rest, cost=own), _links(store), _shared()]
    return sorted((one for one in kinds if one.number), key=lambda one: (not one.is_removable, -one.num_bytes))


def free_bytes(store: Store) -> int:
    """Return what is free on the disk of the runs folder."""
    return shutil.disk_usage(store.folder).free


def remove(store: Store, one: Taken) -> Freed:
    """Remove the things of one kind as they were found; what something began to use meanwhile stays.

    Raises:
        RunError: If this kind is not removed.
    """
    if not one.is_removable:
        raise RunError(one.kind, "is not removed by its kind", None, one.cost.removeprefix("Not removed: "))
    left = tuple(_REMOVERS.get(one.kind, _remove_plainly)(store, one.paths))
    return Freed(kind=one.kind, num_bytes=one.num_bytes - sum(map(size_bytes, one.paths)), left=left)


def _of_runs(store: Store, runs: Sequence[Run], busy: Sequence[Run]) -> Iterator[Taken]:
    points = {run.id: _in_place(store, [store.folder / run.id / CHECKPOINTS]) for run in runs}
    merged = {run.id: _in_place(store, sorted(_written(store.folder / run.id))) for run in runs}
    for state in State:
        those = [run for run in runs if run.state is state]
        beside = sum(size_bytes(path) for run in those for path in (*points[run.id], *merged[run.id]))
        size = sum(size_bytes(store.folder / run.id) for run in those) - beside
        yield Taken(kind=str(state), label=f"Runs: {state}", number=len(those), num_bytes=size, cost=_DELETE)
    # A run at work may have the result of another one as its base model.
    models = {run.model for run in busy}
    used = [run for run in runs if run in busy or any(_holds(store.folder / run.id, model) for model in models)]
    spare = [run for run in runs if _is_saved(store, run) and run not in used]
    others = [run for run in runs if run not in spare]
    idle = [run for run in runs if run not in used]
    label, cost = (
        "Checkpoints of finished and stopped runs",
        "The adapters stay. Resume and Train longer begin anew, and no earlier step can be made the result.",
    )
    yield _plain(store, "checkpoints", label, _of(points, spare), cost)
    yield _fixed("used-checkpoints", "Checkpoints of other runs", _of(points, others), _UNSAVED)
    yield _plain(
        store,
        "merged",
        "Merged and quantized models, exports",
        _of(merged, idle),
        "Write them again on the page of the run.",
    )
    yield _fixed("used-merged", "Merged and quantized models, exports in use", _of(merged, used), _BUSY)
    cost = "Combine those runs again; their ids are in the names of the folders."
    yield _plain(store, "combined", "Combined adapters of earlier versions", _children(store.folder / COMBINED), cost)
    cost = "These runs can no longer be taken back."
    deleted = [path for path in _children(store.folder / TRASH) if path.is_dir()]
    yield _plain(store, "trash", "Deleted runs in the trash", deleted, cost)


def _written(folder: Path) -> Iterator[Path]:
    """Yield what was made of a run's result, and can be made again."""
    for name in WRITTEN:
        yield from folder.glob(name.format("*"))


def _data(store: Store, busy: Iterable[Run]) -> Iterator[Taken]:
    judged = (evaluation.asked(store, run) for run in busy)
    used = store.named_data() | {os.path.realpath(one.data.path) for one in judged if one and one.data}
    for kind, label, folder, cost in (
        ("uploads", "Uploads", store.folder / UPLOADS, "Upload them again when they are needed."),
        ("datasets", "Data sets from the Hub", cache() / "datasets", "Fetched again when they are named."),
    ):
        there = [path for path in _children(folder) if path.is_file() and not path.name.endswith(_NOTED)]
        named = [path for path in there if os.path.realpath(path) in used]
        yield _plain(store, kind, f"{label} that no run names", [path for path in there if path not in named], cost)
        yield _fixed(f"used-{kind}", f"{label} that runs name", named, _NAMED)


def _fetched(store: Store, busy: Iterable[Run]) -> Iterator[Taken]:
    models = {run.model for run in busy}
    for kind, label, cost in (
        ("hub", "Files of models from the Hub", "Fetched again when they are needed."),
        (
            "models",
            "The demo model",
            "Set-up (make setup) makes it again. Its runs need it to be asked, evaluated or merged.",
        ),
        ("wheels", "Packages that set-up fetched", "The next set-up fetches again what it needs."),
    ):
        there = _in_place(store, _children(cache() / kind))
        used = [path for path in there if any(_holds(path, model) for model in models)]
        yield _plain(store, kind, label, [path for path in there if path not in used], cost)
        yield _fixed(f"used-{kind}", f"{label}, in use", used, _BUSY)


def _shared() -> Taken:
    there = [path for path in _children(Path(constants.HF_HUB_CACHE)) if path.is_dir()]
    cost = "Not removed: other programs share them. hf cache ls lists them, and hf cache rm removes them."
    return _fixed("shared-models", "Models in the cache of Hugging Face", there, cost)


def _links(store: Store) -> Taken:
    """Return the links at the places where something else is looked for."""
    there = [path for folder in (store.folder, cache()) for depth in ("*", "*/*") for path in folder.glob(depth)]
    links = [path for path in there if path.is_symlink()]
    return _fixed("links", "Links to other places", links, "Not removed, and not followed.")


def _plain(store: Store, kind: str, label: str, paths: Iterable[Path], cost: str) -> Taken:
    """Return things that can be removed; what a link leads to is none of them."""
    return taken(kind, label, _in_place(store, paths), cost)


def _fixed(kind: str, label: str, paths: Iterable[Path], why: str) -> Taken:
    """Return things that are not removed."""
    return replace(taken(kind, label, paths, why), paths=())


def _of(paths: Mapping[str, Sequence[Path]], runs: Iterable[Run]) -> list[Path]:
    return sorted(path for run in runs for path in paths[run.id])


def _is_silent(run: Run) -> bool:
    return run.state is State.LOST and run.process is not None and processes.lives(run.process)


def _is_evaluated(store: Store, run: Run) -> bool:
    newest = evaluation.latest(store, run)
    return newest is not None and newest.stage == "running"


def _is_saved(store: Store, run: Run) -> bool:
    """Return whether the result of a run holds all that its checkpoints do."""
    return run.state in {State.FINISHED, State.STOPPED} and (store.folder / run.id / RESULT).is_dir()


def _holds(path: Path, model: str) -> bool:
    """Return whether a model lies at a path or within it, or is the one of the Hub that is kept there."""
    real = Path(os.path.realpath(model))
    return real.is_relative_to(os.path.realpath(path)) or path.name == f"models--{model.replace('/', '--')}"


def _children(folder: Path) -> list[Path]:
    """Return what lies in a folder, without what is still being written; nothing where there is no folder."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []


def _in_place(store: Store, paths: Iterable[Path]) -> list[Path]:
    """Return the paths that exist and lead through no link out of the runs folder or the cache."""
    return [path for path in paths if any(_is_within(path, root) for root in (store.folder, cache()))]


def _is_within(path: Path, root: Path) -> bool:
    if not path.is_relative_to(root) or not path.exists():
        return False
    return Path(os.path.realpath(path)) == Path(os.path.realpath(root)) / path.relative_to(root)


def _remove_of_runs(store: Store, paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            if any(_holds(path, run.model) for run in store.runs() if not run.is_over):
                raise RunError(path.name, "holds the base model of a run at work", None, "Stop that run first")
            store.remove_folders(path.parent.name, [path])
        except (LorafitError, OSError) as error:
            yield _stays(path, error)
            continue
        if path.name == CHECKPOINTS:
            with suppress(LorafitError, OSError):  # told by what has removed them
                store.add_event(path.parent.name, "checkpoint", _ANEW)


def _remove_data(store: Store, paths: Iterable[Path]) -> Iterator[str]:
    """Remove files of data, and what is noted beside those of which no other form is kept."""
    for path in paths:
        try:
            if not store.remove_data(path):
                yield _stays(path, RunError("data", "is named by a run now"))
            elif not any(other for other in path.parent.glob(f"{path.stem}.*") if not other.name.endswith(_NOTED)):
                for ending in _NOTED:
                    path.with_suffix(ending).unlink(missing_ok=True)
        except OSError as error:
            yield _stays(path, error)


def _empty_trash(store: Store, paths: Iterable[Path]) -> Iterator[str]:
    store.sweep(days=0)
    for path in paths:
        if path.exists():
            yield _stays(path, OSError("the system does not let go of all its files"))


def _remove_plainly(_: Store, paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            if path.is_dir():
                shutil.rmtree(files.put_out(path))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            yield _stays(path, error)


def _stays(path: Path, error: Exception) -> str:
    return str(RunError(path.name, "was not removed", None, str(error)))


_REMOVERS: Mapping[str, Callable[[Store, Iterable[Path]], Iterator[str]]] = {
    "checkpoints": _remove_of_runs,
    "merged": _remove_of_runs,
    "trash": _empty_trash,
    "uploads": _remove_data,
    "datasets": _remove_data,
}
