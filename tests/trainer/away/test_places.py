import pytest

from specs import RunError
from trainer.runs import places
from trainer.runs.contract import Place, cards, spread


@pytest.mark.parametrize(
    ("text", "url", "host", "folder"),
    [
        pytest.param("ssh://box", "ssh://box", "box", "lorafit", id="as short as can be"),
        pytest.param("ssh://me@box:2222", "ssh://me@box:2222", "me@box", "lorafit", id="user and port"),
        pytest.param(
            "ssh://box/data/it%27s%20%24x", "ssh://box/data/it%27s%20%24x", "box", "/data/it's $x", id="signs"
        ),
        pytest.param("ssh://box/~/a/b", "ssh://box/~/a/b", "box", "a/b", id="within the home folder"),
        pytest.param("ssh://box?python=py3.12", "ssh://box?python=py3.12", "box", "lorafit", id="Python"),
        pytest.param("slurm:///shared?partition=gpu", "slurm:///shared?partition=gpu", "", "/shared", id="Slurm"),
    ],
)
def test_an_address_is_read_and_written_alike(text, url, host, folder):
    found = places.where(text)
    assert (found.url, found.host, found.folder) == (url, host, folder)
    assert places.where(found.url) == found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("box", id="a name that nobody gave"),
        pytest.param("ssh://", id="no host"),
        pytest.param("ssh://-oProxyCommand=x", id="a host that ssh would take for an option"),
        pytest.param("ssh://me:secret@box", id="a password"),
        pytest.param("ssh://box:port", id="a port that is no number"),
        pytest.param("ssh://box?shell=sh", id="an option that there is not"),
        pytest.param("ssh://box/a%00b", id="a sign that nobody sees"),
        pytest.param("slurm:", id="no folder that is shared"),
        pytest.param("http://box", id="another kind"),
        pytest.param("ray://box:8265/shared", id="a kind that is not built"),
    ],
)
def test_an_address_that_names_no_place_is_refused_in_one_sentence(text):
    with pytest.raises(RunError) as told:
        places.where(text)
    assert len(str(told.value)) <= 300
    assert "secret" not in str(told.value)


def test_a_place_is_named_found_and_forgotten(tmp_path):
    places.keep(tmp_path, "box", places.where("ssh://me@box"))
    assert places.found(tmp_path, "box").host == "me@box"
    assert [*places.named(tmp_path)] == ["box"]
    with pytest.raises(RunError, match="letters, digits"):
        places.keep(tmp_path, "ssh://box", places.where("ssh://box"))
    places.forget(tmp_path, "box")
    with pytest.raises(RunError, match="Known: none"):
        places.forget(tmp_path, "box")


def test_devices_elsewhere_are_told_apart_from_those_here():
    there = Place(device="cuda:0,1@ssh://me@box")
    assert cards(there.device) == {"cuda:0@ssh://me@box", "cuda:1@ssh://me@box"}
    assert (there.card, there.away, there.here) == ("cuda:0,1", "ssh://me@box", "cpu")
    assert not cards(there.device) & cards("cuda:0")
    assert spread("cuda:1@ssh://box", 2) == "cuda:1,2@ssh://box"
    assert not cards("cuda:0@slurm:///shared")
