import hashlib
import os
import time

import pytest

from trainer.away import digests


@pytest.fixture
def large(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * digests._LARGE_BYTES)
    os.utime(path, ns=(0, time.time_ns() - 10**10))
    return path


def test_a_large_file_is_read_again_once_it_changed(large):
    first = digests.digest(large)
    assert first == hashlib.sha256(large.read_bytes()).hexdigest()
    before = large.stat()
    large.write_bytes(b"b" * digests._LARGE_BYTES)
    os.utime(large, ns=(0, before.st_mtime_ns + 1))
    assert digests.digest(large) == hashlib.sha256(large.read_bytes()).hexdigest() != first


def test_a_large_file_is_read_once(large):
    first = digests.digest(large)
    before = large.stat()
    large.write_bytes(b"b" * digests._LARGE_BYTES)
    os.utime(large, ns=(0, before.st_mtime_ns))  # as if nobody had touched it
    assert digests.digest(large) == first


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\0"])
def test_a_broken_memory_costs_only_time(large, text):
    file = large.parent / "cache" / "digests.json"
    file.parent.mkdir()
    file.write_text(text)
    assert digests.digest(large) == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_file_that_just_changed_is_not_remembered(large):
    os.utime(large)
    digests.digest(large)
    assert not (large.parent / "cache" / "digests.json").exists()
