"""What each process of a run on several devices took at most, beside what was predicted of each."""

from specs import gib
from trainer.runs.contract import Run


def of_each(run: Run) -> str:
    """Return in a phrase the measured peak of each process and the predicted one; empty for a single process."""
    peaks = run.measured.get("peak_used_bytes_of_each") or ()
    if len(peaks) < 2:
        return ""
    took = ", ".join(f"{gib(peak)} (process {rank})" for rank, peak in enumerate(peaks))
    predicted = (run.estimate or {}).get("used_bytes")
    if not predicted:
        return f"peaks: {took}"
    errors = ", ".join(f"{predicted / peak - 1:+z.1%}" for peak in peaks)
    return f"peaks: {took}; predicted {gib(predicted)} for each ({errors})"
