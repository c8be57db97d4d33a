"""What goes to another place with a run: its folder, LoRAFit's source, its data, and its model if that is a folder."""

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from specs import RunError
from specs.paths import REPO
from trainer.away import digests
from trainer.runs.contract import CHECKPOINTS, LOST_CONNECTION, RESULT, WISH, WITHOUT_SPACE, Run, State
from trainer.runs.storage.afar import HEARD
from trainer.runs.storage.mirror import METRICS, RECORD

_SOURCE = ("advisor", "assets", "catalog", "estimator", "lorafit", "requirements", "scripts", "specs", "trainer")
"""The folders of LoRAFit that training and its set-up need."""
_PINS = ("base.txt", "torch.txt", "cuda.txt")
"""The lists of which ``scripts/setup.py`` makes the environment that trains."""
_OF_RUN = (CHECKPOINTS, RESULT, METRICS)
"""What a run that has trained already needs to go on elsewhere."""
_OURS = (WISH, HEARD, LOST_CONNECTION, WITHOUT_SPACE)
"""Details of a run that only the machine knows which follows it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files that travel together: where they lie there, under a name that tells their content, and where here."""

    target: str
    """Within LoRAFit's folder there."""
    files: tuple[tuple[Path, str], ...]
    """Each file here, and its name there within the target; of a single file, the target is its name."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path, _ in self.files)


@functools.lru_cache(maxsize=1)
def source() -> Parcel:
    """Return LoRAFit's source."""
    paths = [path for folder in _SOURCE for path in (REPO / folder).rglob("*") if path.is_file()]
    kept = sorted(path for path in paths if "__pycache__" not in path.parts)
    files = tuple((path, path.relative_to(REPO).as_posix()) for path in kept)
    return Parcel(f"source/{_digest(files)[:16]}", files)


def environment() -> str:
    """Return where the packages lie that the pins name, so that each version of the pins is set up once."""
    return f"environment/{_digest([(REPO / 'requirements' / name, name) for name in _PINS])[:16]}"


def data(run: Run) -> Parcel:
    """Return a run's data, refused if it changed since the run began.

    Raises:
        DataError: If it did, or is not there.
    """
    known = run.data.require_unchanged(run.details.get("data_sha256"))
    path = Path(run.data.path)
    ending = path.suffix.lower() if path.suffix[1:].isalnum() and path.suffix.isascii() else ""
    return Parcel(f"data/{known}{ending}", ((path, ""),))


def model(run: Run) -> Parcel | None:
    """Return a run's model if it is a folder here; one of the Hub is loaded there."""
    folder = Path(run.model)
    if not folder.is_dir():
        return None
    files = tuple((path, path.name) for path in sorted(folder.iterdir()) if path.is_file())
    return Parcel(f"models/{_digest(files)[:16]}", files)


def made(folder: Path) -> tuple[tuple[Path, str], ...]:
    """Return the files that a run needs to go on: its checkpoints, its result and its curve."""
    paths = (path for name in _OF_RUN for path in (folder / name, *(folder / name).rglob("*")) if path.is_file())
    return tuple((path, path.relative_to(folder).as_posix()) for path in paths)


def record(run: Run, folder: Path, *, data: str, model: str) -> bytes:
    """Return the record of a run as it begins there: queued, with the paths of that place.

    Args:
        run: The run.
        folder: Its folder here.
        data: The file of its data there.
        model: The folder of its model there, or its name; empty if the plan names it.

    Raises:
        RunError: If the run's record is missing, as on a full disk.
    """
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"run {run.id}", "has no record in its folder", None, "Free some space, resume it") from error
    details = {name: value for name, value in known["run"]["details"].items() if name not in _OURS}
    known["run"] |= {
        "state": State.QUEUED,
        "phase": "waiting",
        "device": run.place.card,
        "model_path": model,
        "data": {**known["run"]["data"], "path": data},
        "details": details,
        "stop_requested": 0,
        **dict.fromkeys(("token", "parent_id", "process", "oom_kills", "error", "error_kind", "finished_at")),
    }
    return json.dumps(known).encode()


def orders(run: Run) -> bytes:
    """Return what the keeper there is to do: train the plan, as somebody wished in this attempt."""
    return json.dumps({WISH: run.details[WISH], "plan": run.plan.to_dict()}).encode()


def pack(stream: IO[bytes], files: Iterable[tuple[Path, str]], written: Mapping[str, bytes] | None = None) -> None:
    """Write files, and some that exist only in memory, as a tar archive."""
    with tarfile.open(fileobj=stream, mode="w|", dereference=True) as archive:
        for name, content in (written or {}).items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
        for path, name in files:
            archive.add(path, name, recursive=False, filter=_plain)


def unpacked(stream: IO[bytes], folder: Path) -> None:
    """Write what a tar archive holds into a folder; nothing of it gets outside."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(folder, filter="data")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a file as nobody's in particular: who owns it here means nothing there."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _digest(files: Iterable[tuple[Path, str]]) -> str:
    """Return a hash of the names and contents of files."""
    whole = hashlib.sha256()
    for path, name in files:
        whole.update(f"{name}\0{digests.digest(path)}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def relocated(adapter: Path, base: str) -> None:
    """Write into a fetched adapter where its base model lies here: there it lay elsewhere."""
    config: Any = None
    try:
        config = json.loads(adapter.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # a whole model, or none yet
    if isinstance(config, dict) and "base_model_name_or_path" in config:
        adapter.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2), encoding="utf-8")
