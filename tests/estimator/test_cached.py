"""What estimates leave in the cache is told by version, with what recording it again took here."""

import os

from estimator import cached
from estimator.tape.library import stamp


def test_recorded_steps_of_this_version_are_told_from_others_with_the_seconds_they_took(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    for number, seconds in enumerate((2.0, 3.0, 9.0)):
        for ending, at in (("lock", 1000.0), ("tape", 1000.0 + seconds)):
            file = tmp_path / "tapes" / stamp() / f"{number}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * 5000)
            os.utime(file, (at, at))
    (tmp_path / "layers" / "of another version").mkdir(parents=True)
    tapes, others, speeds = cached.kept()
    assert (tapes.number, others.number, speeds.number) == (3, 1, 0)
    assert "3.0 s each" in tapes.cost
    assert tapes.num_bytes >= 15_000
    assert not any(path.suffix == ".lock" for path in tapes.paths), "a lock may be held at this moment"
