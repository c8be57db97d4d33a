"""Data sets against a server that speaks as much of the Hub's protocol as reading them needs."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from specs import DataError
from trainer.data.files import hub_datasets
from trainer.data.files.reading import is_hub_id

SHA = "a1" * 20
FILE = "data/train.jsonl"
ROWS = "\n".join(json.dumps({"prompt": f"Question {n}?", "completion": f"Answer {n}."}) for n in range(300)).encode()


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/me/rows"):
            self.answer(json.dumps(listing() if "/tree/" in path else information()).encode())
        elif path == f"/datasets/me/rows/resolve/{SHA}/{FILE}":
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = ROWS[int(first) : int(last) + 1 if last else None]
            self.answer(part, status=206 if "Range" in self.headers else 200)
        else:
            self.answer(b"", status=404)

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", SHA)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


def information():
    times = {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
    flags = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
    return {"id": "me/rows", "sha": SHA, "siblings": [{"rfilename": FILE, "size": len(ROWS)}], **times, **flags}


def listing():
    file = {"type": "file", "oid": "b" * 40, "size": len(ROWS), "path": FILE}
    return [{"type": "directory", "oid": "d" * 40, "size": 0, "path": "data"}, file]


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def check(tmp_path, name, **environment):
    folders = {"LORAFIT_RUNS": tmp_path / "runs", "LORAFIT_CACHE": tmp_path / "cache", "HF_HOME": tmp_path / "home"}
    kept = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    return subprocess.run(
        [sys.executable, "-m", "trainer", "check", "--data", name],
        capture_output=True,
        text=True,
        env={**kept, **{key: str(value) for key, value in folders.items()}, **environment},
        check=False,
        timeout=120,
    )


def test_a_data_set_of_the_hub_is_fetched_at_a_revision_once_and_then_read_as_a_file(tmp_path, endpoint):
    first = check(tmp_path, "me/rows", HF_ENDPOINT=endpoint)
    assert "300 rows, 0 skipped" in first.stdout, first.stderr
    (file,) = (tmp_path / "cache" / "datasets").iterdir()
    assert file.name == f"me--rows-{SHA[:12]}.parquet"
    written = file.stat().st_mtime_ns
    assert check(tmp_path, "me/rows", HF_ENDPOINT=endpoint).returncode == 0
    assert file.stat().st_mtime_ns == written


def test_a_data_set_that_is_not_there_or_not_reached_is_refused_in_one_sentence(tmp_path, endpoint):
    for name, environment in (
        ("me/none", {"HF_ENDPOINT": endpoint}),
        ("me/rows", {"HF_HUB_OFFLINE": "1"}),
    ):
        refused = check(tmp_path, name, **environment)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"{name}: cannot be fetched from the Hub, got ")
        assert len(refused.stderr.splitlines()) == 1
        assert "name a file on this machine" in refused.stderr


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../b", "/etc/passwd", "a/b/c", "a", "a/b@../c", "file.jsonl", "-x/y"]
)
def test_what_is_no_id_of_the_hub_is_not_asked_for(name):
    assert not is_hub_id(name)


def test_no_part_of_a_file_stays_when_fetching_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="me/rows: cannot be fetched from the Hub"):
        hub_datasets.fetched("me/rows", tmp_path)
    assert list(tmp_path.iterdir()) == []
