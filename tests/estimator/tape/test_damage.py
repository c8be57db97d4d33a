"""A tape on disk with any byte changed counts as none, and never as another."""

import zipfile

import pytest

from estimator.tape import library
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from specs import FinetunePlan
from tests.estimator.hand import TAPE
from tests.estimator.small import model

WANTED, OTHER = (
    recipe(model(name), FinetunePlan.for_method("lora", name), Conditions()) for name in ("llama", "gpt2 with Conv1D")
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    return tmp_path


def damaged(content):
    """Yield the content with each byte changed, with each end cut off, and with more behind it."""
    for position in range(len(content)):
        for change in (0x01, 0x80, 0xFF):
            yield content[:position] + bytes([content[position] ^ change]) + content[position + 1 :]
        yield content[:position]
    yield content + b"\0"


def test_a_kept_tape_with_any_byte_changed_is_none(cache):
    library.keep(WANTED, TAPE)
    (file,) = cache.rglob("*.tape")
    content = file.read_bytes()
    assert library.kept(WANTED).to_json() == TAPE.to_json()
    for text in damaged(content):
        file.write_bytes(text)
        assert library.kept(WANTED) is None
        assert not library.TapeLibrary().is_warm(WANTED)
    library.keep(WANTED, TAPE)
    assert file.read_bytes()[:32] == content[:32] or library.kept(WANTED) is not None
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_kept_tape_under_the_name_of_another_is_none(cache):
    library.keep(WANTED, TAPE)
    (file,) = cache.rglob("*.tape")
    file.rename(file.with_name(f"{OTHER.key}.tape"))
    assert library.kept(OTHER) is None


def test_a_shipped_archive_with_any_byte_changed_has_the_tape_or_none(tmp_path):
    file = library.shipped_file(WANTED, tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{WANTED.key}.json"), TAPE.to_json(), zipfile.ZIP_DEFLATED)
    content = file.read_bytes()
    found = []
    for text in damaged(content):
        file.write_bytes(text)
        tape = library.shipped(WANTED, tmp_path)
        found.append(tape is not None)
        assert tape is None or tape.to_json() == TAPE.to_json()
    assert 0 < sum(found) < len(found) / 2


def test_a_folder_that_cannot_be_written_to_keeps_nothing_and_harms_nothing(cache):
    (cache / "tapes").write_text("a file")
    library.keep(WANTED, TAPE)
    assert library.kept(WANTED) is None
