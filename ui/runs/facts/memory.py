"""What a run took of the memory, against what was predicted. Pure but for the devices of this machine."""

from catalog import machine
from specs import gib
from trainer.runs.contract import UNKNOWN, Run


def measured_peak(run: Run) -> int | None:
    """Return the measured peak of used memory in bytes, once the worker has recorded it."""
    peak = run.measured.get("peak_used_bytes")
    return int(peak) if peak else None


def predicted_peak(run: Run) -> int | None:
    """Return the predicted peak of used memory in bytes, if the run was estimated."""
    return int(run.estimate["used_bytes"]) if run.estimate and run.estimate.get("used_bytes") else None


def prediction_error(run: Run) -> str | None:
    """Return by how much the predicted peak is too high (+) or too low, of the measured one, as Accuracy has it."""
    measured, predicted = measured_peak(run), predicted_peak(run)
    return f"{predicted / measured - 1:+z.1%}" if measured and predicted else None


def peak_against_predicted(run: Run) -> tuple[str, str]:
    """Return the measured peak of a run's memory, and beside it what was predicted and the error of that."""
    measured, predicted = measured_peak(run), predicted_peak(run)
    shown = gib(measured) if measured else "–"
    if not predicted:
        return shown, "peak" if measured else "no peak yet"
    told = f"predicted {gib(predicted)}"
    error = prediction_error(run)
    return shown, f"{told}, {error}" if error else told


def memory_found(run: Run) -> str:
    """Return what the first steps showed of a memory that was unknown before; empty where it was estimated."""
    if UNKNOWN not in (run.estimate or {}):
        return ""
    peak, free = measured_peak(run), _capacity_bytes(run)
    if peak is None:
        return "" if run.is_over else "The memory is unknown. The first steps will show what the run takes."
    steps = int(run.measured.get("measured_steps", run.step))
    return f"The memory was unknown; by step {max(steps, run.step):,} the run took at most {gib(peak)} of {gib(free)}."


def _capacity_bytes(run: Run) -> int:
    """Return what the device of a run can hand out, or this machine's first one if it is gone."""
    devices = machine.devices()
    here_now = next((device for device in devices if device.torch_name == run.place.device), devices[0])
    return here_now.gpu.usable_bytes
