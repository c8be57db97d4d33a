"""Runs on another machine that is reached by ssh. Nothing is installed there by hand."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from specs import RunError, gib
from trainer import files
from trainer.away import parcel
from trainer.away.connection import Connection, ScriptError
from trainer.away.executor import NOT_FETCHED, ORDERS, PARCEL, STOP, Ground, Told
from trainer.away.parcel import Parcel
from trainer.runs.contract import RESULT, Run
from trainer.runs.places import Where

_LOOK = """
umask 077
mkdir -p -- "$1" && cd -- "$1" || exit 11
mkdir -p source environment data models runs || exit 11
printf 'root %s\\n' "$(pwd -P)"
df -Pk . | awk 'NR == 2 { print "free", $4 }'
python=$2
shift 2
for item in "$@"; do [ -e "$item" ] && printf 'has %s\\n' "$item"; done
command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi --query-gpu=name --format=csv,noheader | sed 's/^/card /'
"$python" -c 'import sys; print("python %d.%d" % sys.version_info[:2])' 2>/dev/null
:
"""
_PUT = """
umask 077
cd -- "$1" || exit 11
part="$2.part.$$"
find "${2%/*}" -maxdepth 1 -name '*.part.*' -mmin +60 -exec rm -rf {} + 2>/dev/null
trap 'rm -rf -- "$part"' EXIT HUP TERM
mkdir -p -- "$part" && tar -xf - -C "$part" || exit 12
[ -e "$2" ] || mv -- "$part" "$2"
"""
_PUT_FILE = """
umask 077
cd -- "$1" || exit 11
part="$2.part.$$"
trap 'rm -f -- "$part"' EXIT HUP TERM
cat > "$part" && mv -- "$part" "$2"
"""
_SET_UP = """
umask 077
cd -- "$1/$2" || exit 11
(while sleep 5; do echo; done) &
trap "kill $!" EXIT
[ -x "$1/$3/bin/python" ] || "$4" -m venv --clear "$1/$3" 2>&1 || exit 12
ln -sfn "$1/$3" .venv || exit 12
"$4" scripts/setup.py --packages 2>&1 || exit 13
touch "$1/$3.ready"
"""
_START = """
umask 077
cd -- "$1/$2" || exit 11
rm -f -- "$1/runs/$4/$5"
free=nohup
command -v setsid >/dev/null 2>&1 && free='setsid nohup'
PYTHONPATH="$1/$2" $free "$1/$3/bin/python" -u -m trainer.away.there keep "$1/runs" "$4" \\
    >> "$1/runs/$4/keeper.log" 2>&1 < /dev/null &
"""
_TELL = """
cd -- "$1/$2" || exit 11
PYTHONPATH="$1/$2" exec "$1/$3/bin/python" -u -m trainer.away.there tell "$1/runs" "$4" "$5"
"""
_STOP = 'cd -- "$1" && touch -- "runs/$2/$3"'
_FETCH = """
cd -- "$1" || exit 11
shift
tar -cf - "$@" .
"""
_READY = ".ready"
_OLDEST_PYTHON = (3, 11)
_ENVIRONMENT_BYTES = 6 << 30
"""What the packages may take with CUDA's libraries, and pip's copies of them for a while. A choice, to fail early."""


class Ssh:
    """The five verbs over ssh. LoRAFit's folder there holds source, environments, data and models, each by its hash."""

    def __init__(self, place: Where) -> None:
        self._place = place
        self._connection = Connection(place)
        self._root = ""

    def send(self, run: Run, folder: Path, say: Callable[[str], None]) -> bool:
        """Bring a run there with all that it needs, and set up the environment if its pins are new."""
        model = parcel.model(run)
        parcels = [parcel.source(), parcel.data(run), *([model] if model else [])]
        environment, home = parcel.environment(), f"runs/{run.id}"
        known = self._look(*(one.target for one in parcels), f"{environment}{_READY}", f"{home}/{PARCEL}")
        for one in parcels:
            if one.target not in known.items:
                self._put(one, known, say)
        if f"{environment}{_READY}" not in known.items:
            self._set_up(environment, known, say)
        orders = {ORDERS: parcel.orders(run)}
        if new := f"{home}/{PARCEL}" not in known.items:
            orders[PARCEL] = parcel.record(
                run,
                folder,
                data=f"{self._root}/{parcels[1].target}",
                model=f"{self._root}/{model.target}" if model else run.place.model_path,
            )
            made = parcel.made(folder)
            self._connection.run(_PUT, self._root, home, give=lambda stream: parcel.pack(stream, made, orders))
        else:
            text = orders[ORDERS]
            target = f"{home}/{ORDERS}"
            self._connection.run(_PUT_FILE, self._root, target, give=lambda stream: _write(stream, text))
        return new

    def start(self, run: Run) -> None:
        """Start the keeper, in a session of its own that outlives the connection."""
        given = (parcel.source().target, parcel.environment(), run.id, STOP)
        self._connection.run(_START, self._found_root(), *given)

    def follow(self, run: Run, position: Mapping[str, Any]) -> Iterator[Told]:
        """Yield what is told there, line by line."""
        given = (parcel.source().target, parcel.environment(), run.id, json.dumps(position))
        for line in self._connection.lines(_TELL, self._found_root(), *given):
            yield Told(**json.loads(line))

    def stop(self, run: Run) -> None:
        """Leave the request in the run's folder there, where its keeper looks."""
        self._connection.run(_STOP, self._found_root(), run.id, STOP)

    def fetch(self, run: Run, folder: Path) -> None:
        """Bring the files of the run's folder; each replaces what is here only once it is whole."""
        without = [f"--exclude=./{name}" for name in sorted(NOT_FETCHED)]
        with files.scratch_folder(folder) as scratch:
            self._connection.take(
                _FETCH,
                f"{self._found_root()}/runs/{run.id}",
                *without,
                take=lambda stream: parcel.unpacked(stream, scratch),
            )
            parcel.relocated(scratch / RESULT / "adapter_config.json", run.model)
            files.settle(scratch, folder)

    def check(self) -> Ground:
        """Return what the machine has, after looking whether it can be used."""
        known = self._look(f"{parcel.environment()}{_READY}")
        ready = "the packages are installed there"
        if not known.items:
            self._require_python(known)
            ready = "the first run installs the packages there (about 6 GiB with CUDA)"
        cards = ", ".join(known.cards) or "no NVIDIA card"
        told = f"{self._place.short}: can be used, {cards}, {gib(known.free_bytes)} free in {known.root}; {ready}."
        return Ground(told, (*(f"cuda:{number}" for number in range(len(known.cards))), "cpu"))

    def _found_root(self) -> str:
        if not self._root:
            self._look()
        return self._root

    def _look(self, *items: str) -> "_Known":
        """Ask for what is there already, and make LoRAFit's folder."""
        try:
            said = self._connection.run(_LOOK, self._place.folder, self._python, *items)
        except ScriptError as error:
            if error.status != 11:
                raise
            rule = "has a folder for LoRAFit that cannot be made or written"
            raise RunError(self._place.short, rule, self._place.folder, "Name another folder") from error
        known = _Known(said)
        self._root = known.root
        return known

    @property
    def _python(self) -> str:
        return self._place.option("python", "python3")

    def _put(self, one: Parcel, known: "_Known", say: Callable[[str], None]) -> None:
        size = one.size_bytes
        if size > known.free_bytes:
            rule = f"needs {gib(size)} for {one.target.partition('/')[0]}, and has {gib(known.free_bytes)} free"
            raise RunError(self._place.short, rule, None, "Free some there, or name another folder")
        say(f"Sending {one.target.partition('/')[0]} to {self._place.short} ({gib(size)}, once).")
        if len(one.files) == 1 and not one.files[0][1]:
            path = one.files[0][0]
            self._connection.run(_PUT_FILE, self._root, one.target, give=lambda stream: _copy(path, stream))
        else:
            self._connection.run(_PUT, self._root, one.target, give=lambda stream: parcel.pack(stream, one.files))

    def _set_up(self, environment: str, known: "_Known", say: Callable[[str], None]) -> None:
        self._require_python(known)
        if known.free_bytes < _ENVIRONMENT_BYTES:
            rule = f"needs {gib(_ENVIRONMENT_BYTES)} for the packages, and has {gib(known.free_bytes)} free"
            raise RunError(self._place.short, rule, None, "Free some there, or name another folder")
        say(f"Setting up the packages on {self._place.short} (once for each version of LoRAFit's pins, some minutes).")
        source, said = parcel.source().target, ""
        try:
            for line in self._connection.lines(_SET_UP, self._root, source, environment, self._python):
                said = line.strip() or said
                sys.stdout.write(f"{said}\n")
        except ScriptError as error:
            raise RunError(self._place.short, "could not be set up", said, "Resume the run to try again") from error

    def _require_python(self, known: "_Known") -> None:
        if known.python is None or known.python < _OLDEST_PYTHON:
            found = None if known.python is None else "{}.{}".format(*known.python)
            rule = f"needs Python {_OLDEST_PYTHON[0]}.{_OLDEST_PYTHON[1]} or newer as {self._python}"
            raise RunError(self._place.short, rule, found, "Name another with ?python=PATH behind the address")


class _Known:
    """What is there: LoRAFit's folder, the asked items, the cards, the free space, and Python's version."""

    def __init__(self, said: str) -> None:
        pairs = [line.partition(" ") for line in said.splitlines()]
        facts = {name: value for name, _, value in pairs}
        self.root = facts.get("root", "")
        self.cards = [value for name, _, value in pairs if name == "card"]
        self.items = {value for name, _, value in pairs if name == "has"}
        self.free_bytes = 1024 * int(facts["free"]) if facts.get("free", "").isdecimal() else 0
        numbers = facts.get("python", "").split(".")
        self.python = tuple(int(number) for number in numbers) if all(map(str.isdecimal, numbers)) else None


def _write(stream: IO[bytes], text: bytes) -> None:
    stream.write(text)


def _copy(path: Path, stream: IO[bytes]) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)


def executor(place: Where) -> Ssh:
    """Return the executor of a place such as ``ssh://host``."""
    return Ssh(place)
