"""The Hub is a real HTTP server on this machine that answers like the Hub; huggingface_hub is the real client."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.patience import PATIENCE
from tests.unusable import disk, fill

CONFIG = json.dumps(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 100,
        "intermediate_size": 128,
    }
).encode()
ANSWERS = {
    "there": (200, {"X-Repo-Commit": "a" * 40, "ETag": '"b1"'}, CONFIG),
    "gated": (403, {"X-Error-Code": "GatedRepo"}, b""),
    "nowhere": (404, {"X-Error-Code": "RepoNotFound"}, b""),
    "empty": (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "a" * 40}, b""),
    "code": (
        200,
        {"X-Repo-Commit": "c" * 40, "ETag": '"b2"'},
        b'{"auto_map": {"AutoConfig": "x.Y"}, ' + CONFIG[1:].replace(b"llama", b"yuan"),
    ),
}
REVISION = {"X-Repo-Commit": "d" * 40}
FILES = {
    "nvidia": {
        "config.json": (200, {**REVISION, "ETag": '"c1"'}, CONFIG),
        "hf_quant_config.json": (200, {**REVISION, "ETag": '"q1"'}, b'{"quantization": {"quant_algo": "NVFP4"}}'),
    },
    "speaks": {
        "tokenizer.json": (200, {**REVISION, "ETag": '"t1"'}, b'{"model": {}}'),
        "chat_template.jinja": (200, {**REVISION, "ETag": '"t2"'}, b"{{ messages }}"),
    },
    "huge": {"tokenizer.json": (200, {**REVISION, "ETag": '"t3"', "X-Linked-Size": str(2**31)}, b"{}")},
    "mute": {},
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("/")[2] if self.path.count("/") > 2 else ""
        file = self.path.rpartition("/")[2]
        status, headers, body = ANSWERS.get(name, (200, {}, b"ok"))
        if name in FILES:
            status, headers, body = FILES[name].get(file, ANSWERS["empty"])
        elif status == 200 and file == "hf_quant_config.json":
            status, headers, body = ANSWERS["empty"]
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_arguments):
        """Keep the test's output free of requests."""


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(name, endpoint, folder):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "LORAFIT_CACHE": str(folder), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "catalog", "models", name, "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)


def test_a_hub_model_is_read_and_later_found_without_the_network(endpoint, tmp_path):
    first = asked("org/there", endpoint, tmp_path)
    assert first.returncode == 0, first.stderr
    spec = json.loads(first.stdout)[0]
    assert (spec["name"], spec["hidden_size"]) == ("org/there", 64)
    offline = asked("org/there", "http://127.0.0.1:9", tmp_path)
    assert json.loads(offline.stdout)[0] == spec


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("org/gated", "is gated on the Hub", id="gated"),
        pytest.param("org/nowhere", "is neither in the catalog nor on the Hub", id="unknown"),
        pytest.param("org/empty", "has no config.json", id="no transformers model"),
        pytest.param("org/code", "needs its own code", id="brings code"),
        pytest.param("org/nvidia", "already quantized", id="quantized, as only the file beside it says"),
    ],
)
def test_what_the_hub_does_not_give_is_explained_in_one_sentence(endpoint, tmp_path, name, part):
    done = asked(name, endpoint, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_is_told_apart_from_unknown(tmp_path):
    done = asked("org/there", "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2
    assert "the Hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", ["size=4k", "size=1m,nr_inodes=4"], ids=["full", "out of inodes"])
def test_a_full_disk_for_what_is_fetched_is_told_apart_from_the_network(endpoint, tmp_path, options):
    with disk(tmp_path / "disk", options) as place:
        fill(place)
        done = asked("org/there", endpoint, place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("org/there: cannot be kept: the folder for what is fetched cannot be written, got '/")
    assert done.stderr.endswith("Free some space, or set LORAFIT_CACHE.\n")
    assert len(done.stderr.splitlines()) == 1


FETCH = """
import sys
from catalog import hub, tokenizers
from specs import CatalogError
name = sys.argv[1]
print(tokenizers.folder(name))
try:
    hub.fetch_tokenizer(name)
except CatalogError as error:
    sys.exit(str(error))
print(*sorted(path.name for path in tokenizers.folder(name).iterdir()))
"""


def fetched(name, endpoint, folder):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "LORAFIT_CACHE": str(folder), "HF_HUB_DISABLE_XET": "1"}
    environment["HF_HOME"] = str(folder / "hf")
    command = [sys.executable, "-c", FETCH, name]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)


def test_a_tokenizer_is_fetched_on_demand_and_then_found_on_this_machine(endpoint, tmp_path):
    done = fetched("org/speaks", endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["None", "chat_template.jinja tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("org/gated", "is gated on the Hub", id="gated"),
        pytest.param("org/nowhere", "is not on the Hub", id="unknown"),
        pytest.param("org/mute", "has no tokenizer.json on the Hub", id="no tokenizer"),
        pytest.param("org/huge", "may have at most 67,108,864 bytes, got 2147483648", id="too large"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_said_in_one_sentence(endpoint, tmp_path, name, part):
    done = fetched(name, endpoint, tmp_path)
    assert done.returncode == 1
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tokenizer_is_not_fetched_offline(tmp_path):
    done = fetched("org/speaks", "http://127.0.0.1:9", tmp_path)
    assert "the Hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


OBTAIN = """
import sys
from catalog import here
from specs import CatalogError
try:
    here.require_obtainable(sys.argv[1])
except CatalogError as error:
    sys.exit(str(error))
"""


def obtained(name, endpoint, folder):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "LORAFIT_CACHE": str(folder), "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", OBTAIN, name]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    ).stderr


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("org/gated", "org/gated: is gated on the Hub", id="gated"),
        pytest.param("org/nowhere", "is not on the Hub", id="unknown"),
        pytest.param("org/empty", "has no config.json on the Hub", id="no transformers model"),
        pytest.param("7B", "must be a folder on this machine or a Hub id to be trained", id="a size"),
    ],
)
def test_a_model_whose_weights_cannot_be_had_is_told_before_its_run_exists(endpoint, tmp_path, name, part):
    assert part in obtained(name, endpoint, tmp_path)
    assert obtained("org/there", endpoint, tmp_path) == ""


def test_offline_only_models_on_this_machine_can_be_trained(tmp_path):
    assert "is not on this machine, and the Hub cannot be reached" in obtained("org/a", "http://127.0.0.1:9", tmp_path)
    fetched = tmp_path / "hf/hub/models--org--a/snapshots/1/model.safetensors"
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert obtained("org/a", "http://127.0.0.1:9", tmp_path) == ""
