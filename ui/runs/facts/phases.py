"""Where a run stands on its way from the queue to its end, as a line of steps. Pure."""

from html import escape

from trainer.runs.contract import Phase, Run, State
from ui.runs.facts import wording

_ORDER = (
    Phase.WAITING,
    Phase.LOADING,
    Phase.TOKENIZING,
    Phase.RACING,
    Phase.TRAINING,
    Phase.SAVING,
    Phase.EVALUATING,
    Phase.DONE,
)
_GREEN, _RED = "light-dark(#14602A, #7BD693)", "light-dark(#A3202B, #FF9A9F)"
_ENDS = {State.FINISHED: ("done", _GREEN), State.FAILED: ("failed", _RED), State.LOST: ("lost", _RED)}


def strip(run: Run) -> str:
    """Return the phases of a run as markup: those behind it, the one that it is in, and those before it."""
    order = [phase for phase in _ORDER if phase is not Phase.RACING or run.race is not None]
    at = len(order) - 1 if run.is_over else order.index(_now(run))
    cells = "".join(_cell(run, phase, number - at) for number, phase in enumerate(order))
    alt = escape(f"{run.state}, {_words(run, order[at])}")
    return (
        f"<div role='img' aria-label='{alt}' style='display:flex;flex-wrap:wrap;gap:0.3rem 0.5rem;font-size:0.9rem'>"
        f"{cells}</div>"
    )


def _now(run: Run) -> Phase:
    """Return the phase of a run; a worker that has just been started is about to load."""
    if run.state is State.QUEUED:
        return Phase.WAITING
    return Phase.LOADING if run.phase in {Phase.WAITING, Phase.DONE} else run.phase


def _cell(run: Run, phase: Phase, distance: int) -> str:
    words = escape(_words(run, phase))
    mark = "✓" if distance < 0 and _was_in(run, phase) else "●" if distance == 0 else "○"
    color = _ENDS.get(run.state, ("", "inherit"))[1] if phase is Phase.DONE and run.is_over else "inherit"
    style = f"color:{color};" + ("font-weight:650" if distance == 0 else "opacity:0.75")
    return f"<span style='{style}'>{mark}&nbsp;{words}</span>"


def _was_in(run: Run, phase: Phase) -> bool:
    """Return whether a run that is over went through a phase, as far as its figures tell."""
    if not run.is_over or run.state is State.FINISHED or phase is Phase.WAITING:
        return True
    if phase in {Phase.LOADING, Phase.TOKENIZING}:
        return run.started_at is not None
    if phase is Phase.RACING:
        return not run.races
    return phase is Phase.TRAINING and run.step > 0


def _words(run: Run, phase: Phase) -> str:
    if phase is Phase.WAITING:
        return "queued"
    if phase is Phase.TRAINING:
        return f"training {run.step:,}/{run.total_steps:,}" if run.total_steps else "training"
    if phase is Phase.EVALUATING:
        return wording.of(run.plan).phase
    if phase is Phase.DONE:
        return _ENDS.get(run.state, (str(run.state), ""))[0] if run.is_over else "done"
    return str(phase)
