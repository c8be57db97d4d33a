"""Uploads against a server that speaks as much of the Hub's protocol as they need."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from specs import RunError
from trainer.results.hub import push
from trainer.runs.contract import Metric, State
from trainer.runs.export import RESULT

TOKEN = "hf_neverKeepThis"  # noqa: S105 - a made-up one
REPO = "me/my-adapter"


class Hub(ThreadingHTTPServer):
    """Takes commits of whoever brings the token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.files: dict[str, bytes] = {}
        self.made: dict[str, object] = {}
        self.status = 200


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        status = self.server.status if allowed else 401
        answer = json.dumps(self.answer(body) if status == 200 else {"error": f"no, {self.headers['Authorization']}"})
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def do_GET(self):
        self.send_error(404)

    def answer(self, body):
        if self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            return {"url": f"http://127.0.0.1:{self.server.server_port}/{REPO}"}
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return {"commitOid": "0" * 40, "commitUrl": f"http://127.0.0.1/{REPO}/commit/0"}
        return {"warnings": [], "errors": []}

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def saved_run(store, plan_of, chat_data):
    run = store.create(plan_of(), chat_data)
    store.claim_next("cpu")
    store.start_training(run.id)
    store.add_metric(run.id, Metric(step=1, loss=2.0))
    folder = store.run_folder(run.id) / RESULT
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("PEFT's own card")
    store.enter(run.id, State.FINISHED)
    return store.run(run.id)


def test_a_result_goes_up_with_plan_metrics_and_card_and_the_token_stays_nowhere(hub, store, saved_run, capfd):
    address = push(store, saved_run, REPO, TOKEN)
    assert address.endswith(REPO)
    assert hub.made["visibility"] == "private"
    assert hub.files["adapter_model.safetensors"] == b"weights"
    assert {"plan.json", "metrics.csv"} <= set(hub.files)
    assert b"Trained with LoRAFit" in hub.files["README.md"]
    assert store.events(saved_run.id)[-1].text == f"Uploaded to {address}."
    kept = [path.read_bytes() for path in store.folder.rglob("*") if path.is_file()]
    assert kept
    assert not any(TOKEN.encode() in content for content in kept)
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("status", "token", "said"),
    [
        pytest.param(200, "hf_another", "token: is not accepted", id="a wrong token"),
        pytest.param(403, TOKEN, "token: has no write access", id="somebody else's repository"),
        pytest.param(500, TOKEN, "refused the upload with status 500", id="trouble at the Hub"),
    ],
)
def test_what_the_hub_refuses_is_told_without_the_token(hub, store, saved_run, status, token, said):
    hub.status = status
    with pytest.raises(RunError, match=said) as raised:
        push(store, saved_run, REPO, token)
    assert token not in str(raised.value)
    assert raised.value.__cause__ is None


def test_without_a_network_one_sentence_says_so(monkeypatch, store, saved_run):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="Hub: cannot be reached"):
        push(store, saved_run, REPO, TOKEN)


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        pytest.param("my-adapter", TOKEN, "must be owner/name", id="no owner"),
        pytest.param("me/../you", TOKEN, "must be owner/name", id="a path"),
        pytest.param(REPO, " ", "token: is needed", id="no token"),
        pytest.param(REPO, "hf_a\nb", "token: is needed", id="a token of two lines"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_hub_is_asked(store, saved_run, repo_id, token, said):
    with pytest.raises(RunError, match=said):
        push(store, saved_run, repo_id, token)


def test_a_run_without_a_result_is_not_pushed(store, plan_of, chat_data):
    with pytest.raises(RunError, match="has saved no adapter yet"):
        push(store, store.create(plan_of(), chat_data), REPO, TOKEN)
