"""The conversations of the page: one per device, whoever opened it. Draws nothing."""

import threading
from collections.abc import Iterator, Sequence

from trainer.data.forms.messages import Turn
from trainer.results.chat import ROUTER, Conversation, Question
from trainer.results.companions import companions, routed
from trainer.results.quantizing import WAYS, kept
from trainer.runs.contract import Run
from ui.runs.facts import run_data, titles

_open: dict[str, Conversation] = {}
_lock = threading.Lock()


def answer(run: Run, turns: Sequence[Turn], *, voice: str, temperature: float) -> Iterator[str]:
    """Yield the answer of a run's model piece by piece; ends a conversation with another run on the same device.

    Raises:
        LorafitError: If a run is using the device, or the question cannot be answered.
    """
    question = Question(turns=tuple(turns), voice=voice, temperature=temperature)
    yield from _conversation(run).answer(question)


def others(run: Run) -> dict[str, str]:
    """Return who else can answer, and what that is called: runs by id, the router, and quantized models."""
    found, among = companions(run_data.store(), run), routed(run_data.store(), run)
    router = {ROUTER: f"Router: weighs {len(among)} adapters for each token"} if among else {}
    rounded = {way: f"Quantized, {WAYS[way].label}" for way in kept(run_data.store(), run)}
    return {**{one.id: name for one, name in zip(found, titles.labels(found), strict=True)}, **router, **rounded}


def speed(run: Run) -> float | None:
    """Return the tokens per second of the last answer."""
    found = _open.get(run.place.here)
    return found.speed if found is not None and found.run_id == run.id else None


def is_open(run: Run) -> bool:
    """Return whether a process holds this run's model."""
    found = _open.get(run.place.here)
    return found is not None and found.run_id == run.id and found.is_open


def close(run: Run) -> None:
    """End a run's conversation and free its memory."""
    with _lock:
        if is_open(run):
            _open.pop(run.place.here).close()


def _conversation(run: Run) -> Conversation:
    """Return the conversation with a run; starts one if there is none."""
    with _lock:
        if not is_open(run):
            if run.place.here in _open:
                _open.pop(run.place.here).close()
            _open[run.place.here] = Conversation(run_data.store(), run)
        return _open[run.place.here]
