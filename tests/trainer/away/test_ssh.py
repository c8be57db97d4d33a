import os
import signal
import stat
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from specs import RunError
from tests.trainer.away.conftest import set_up
from tests.trainer.waiting import over, waited, worker_of
from tests.unusable import disk, fill
from trainer.away.executor import UnreachableError
from trainer.away.ssh import Ssh
from trainer.runs import distance, launcher
from trainer.runs.contract import Place, State
from trainer.runs.places import Where, where
from trainer.runs.store import Store


@pytest.fixture
def there(box, tiny_model) -> Place:
    return Place(device=f"cpu@{box.url}", model_path=str(tiny_model))


def started(store: Store, plan, data, place):
    run = store.create(plan, data, place=place)
    launcher.launch(store, run.id)
    return run.id


def worker_there(box: Where, run_id: str) -> psutil.Process:
    process = Store(Path(box.folder) / "runs").run(run_id).process
    return psutil.Process(int(process.split()[0]))


@pytest.mark.slow
def test_a_run_there_loses_nothing_to_a_cut_network_and_a_killed_follower(
    store, plan_of, chat_data, there, box, sshd, monkeypatch
):
    secret = "hf_" + "s" * 30
    monkeypatch.setenv("HF_TOKEN", secret)
    run_id = started(store, plan_of(max_steps=300, save_steps=150), chat_data, there)
    waited(store, run_id, lambda run: run.step >= 2)
    sshd.cable.cut()
    lost = waited(store, run_id, lambda run: run.connection_lost_at is not None)
    assert lost.is_active
    os.kill(worker_of(run_id).pid, signal.SIGKILL)  # the follower; the worker is no child of this process
    again = waited(store, run_id, lambda run: run.attempt == 2)
    assert again.is_active
    sshd.cable.mend()
    run = waited(store, run_id, over)

    assert run.state is State.FINISHED, run.error
    assert [metric.step for metric in store.metrics(run_id)] == list(range(1, 301))
    texts = [event.text for event in store.events(run_id)]
    assert texts.count("Running.") == texts.count("Saved the checkpoint of step 150.") == 1
    assert any(text.startswith("Connection to ssh://box lost") for text in texts)
    assert [answer.prompt for answer in store.answers(run_id)] == list(chat_data.prompts)
    home = store.run_folder(run_id)
    assert (home / "adapter" / "adapter_model.safetensors").is_file()
    assert (home / "checkpoints" / "checkpoint-300").is_dir()
    assert str(there.model_path) in (home / "adapter" / "adapter_config.json").read_text()
    assert "train_runtime" in (home / "worker.log").read_text()
    sent = Path(box.folder) / "runs"
    assert not any(secret in path.read_text(errors="replace") for path in sent.rglob("*") if path.is_file())
    assert stat.S_IMODE(sent.stat().st_mode) == 0o700


@pytest.mark.slow
def test_a_worker_killed_there_is_named_and_the_run_is_resumed_there_and_stopped(
    store, plan_of, chat_data, there, box, sshd
):
    run_id = started(store, plan_of(max_steps=2000, save_steps=5), chat_data, there)
    waited(store, run_id, lambda run: run.step >= 6)
    worker_there(box, run_id).kill()
    killed = waited(store, run_id, over)
    assert killed.state is State.FAILED
    assert "SIGKILL" in killed.error

    store.request_resume(run_id)
    launcher.launch(store, run_id)
    waited(store, run_id, lambda run: run.step > killed.step + 5)
    sshd.kill_sessions()
    store.request_stop(run_id)
    stopped = waited(store, run_id, over)
    assert stopped.state is State.STOPPED, stopped.error
    steps = [metric.step for metric in store.metrics(run_id)]
    assert steps == list(range(1, stopped.step + 1))
    assert (store.run_folder(run_id) / "checkpoints" / f"checkpoint-{stopped.step}").is_dir()


@pytest.mark.slow
def test_a_disk_that_fills_up_there_is_told_and_the_run_goes_on_once_there_is_space(
    store, plan_of, chat_data, tiny_model, sshd, tmp_path
):
    assert sshd.command
    with disk(tmp_path / "disk", "size=192m") as there:
        place = Place(device=f"cpu@{set_up(there / 'lorafit').url}", model_path=str(tiny_model))
        run_id = started(store, plan_of(max_steps=600, save_steps=20), chat_data, place)
        waited(store, run_id, lambda run: run.step >= 2)
        fill(there)
        full = waited(store, run_id, lambda run: run.connection_lost_at is not None)
        assert full.is_active
        assert distance.connection(full).startswith("No space on the disk there since")
        assert "ssh://box has no space left on its disk. Free some there." in [
            event.text for event in store.events(run_id)
        ]
        (there / "ballast").unlink()
        ended = waited(store, run_id, over)
        if ended.state is State.FAILED:  # a checkpoint was to be saved meanwhile
            assert ended.error.startswith("ssh://box: ")
            store.request_resume(run_id)
            launcher.launch(store, run_id)
            ended = waited(store, run_id, over)
        assert ended.state is State.FINISHED, ended.error
        assert [metric.step for metric in store.metrics(run_id)] == list(range(1, 601))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        pytest.param("ssh://nowhere.invalid", "name of no machine", id="no such host"),
        pytest.param("ssh://stranger", "host key that is not known", id="unknown host key"),
        pytest.param(
            "ssh://renewed", "If it was set up anew, run ssh-keygen -f .*changed -R box", id="changed host key"
        ),
        pytest.param("ssh://careless", "chmod 600", id="a key that others may read"),
        pytest.param("ssh://keyless", "lets nobody in with the keys", id="no key"),
        pytest.param("ssh://closed", "cannot be reached", id="nothing listens"),
        pytest.param("ssh://box/~/{tmp}?python=py99", "needs Python 3.11 or newer as py99", id="no Python"),
        pytest.param("ssh://box/proc/none", "cannot be made or written", id="folder that cannot be made"),
    ],
)
def test_a_place_that_cannot_be_used_is_told_in_one_sentence(sshd, tmp_path, monkeypatch, address, said):
    known = sshd.config.read_text()
    other = tmp_path / "config"
    port = known.split("Port ")[1].split()[0]
    user = known.split("User ")[1].split()[0]
    base = f" HostName 127.0.0.1\n Port {port}\n User {user}\n IdentitiesOnly yes\n"
    (tmp_path / "empty").touch()
    keyless = f"Host keyless\n{base} IdentityFile {tmp_path}/none\n StrictHostKeyChecking no\n"
    keyless += f" UserKnownHostsFile {tmp_path}/accepted\n"
    stranger = f"Host stranger\n{base} StrictHostKeyChecking yes\n UserKnownHostsFile {tmp_path}/empty\n"
    other_key = (sshd.config.parent / "user.pub").read_text()
    (tmp_path / "changed").write_text(f"box {other_key}")
    renewed = f"Host renewed\n{base} HostKeyAlias box\n UserKnownHostsFile {tmp_path}/changed\n"
    (tmp_path / "open").write_bytes((sshd.config.parent / "user").read_bytes())
    (tmp_path / "open").chmod(0o644)
    careless = keyless.replace("Host keyless", "Host careless").replace(f"{tmp_path}/none", f"{tmp_path}/open")
    closed = "Host closed\n HostName 127.0.0.1\n Port 1\n"
    other.write_text(known + keyless + stranger + renewed + careless + closed)
    monkeypatch.setenv("LORAFIT_SSH", f"ssh -F {other}")
    place = where(address.replace("/~/{tmp}", quote(str(tmp_path / "there"))))
    with pytest.raises(RunError, match=said) as told:
        Ssh(place).check()
    assert len(str(told.value)) <= 300
    assert isinstance(told.value, UnreachableError) == ("box" not in address)
