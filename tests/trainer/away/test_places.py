from argparse import Namespace
from types import SimpleNamespace

import pytest

from specs import RunError
from trainer.commands import going
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
        pytest.param("ssh://me@[::1]:22", "ssh://me@[::1]:22", "me@[::1]", "lorafit", id="an address of IPv6"),
        pytest.param("ssh://box/~", "ssh://box", "box", "lorafit", id="the home folder itself"),
        pytest.param("ssh://box/a%23f", "ssh://box/a%23f", "box", "/a#f", id="a # that is meant"),
        pytest.param("ray://head:8265/shared", "ray://head:8265/shared", "head", "/shared", id="Ray"),
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
        pytest.param("ssh://box/a#f", id="a fragment, which an address of a page has"),
        pytest.param("ssh://box#", id="an empty fragment"),
        pytest.param("ssh://box?python=a&python=b", id="an option twice"),
        pytest.param("ssh://box?python=", id="an option without a value"),
        pytest.param("ssh://box?python=a&", id="an option without a name"),
        pytest.param("ssh://box:0", id="port 0"),
        pytest.param("ssh://box:65536", id="a port that no machine has"),
        pytest.param("ssh://box:", id="no port after the colon"),
        pytest.param("ssh://h%0aX", id="a line break in the host"),
        pytest.param("ssh://h\nX", id="a line break that urlsplit leaves out"),
        pytest.param("ssh://b ox", id="a space in the host"),
        pytest.param("ssh://me@-box", id="a host that begins like an option"),
        pytest.param("ssh://@box", id="no user before the @"),
        pytest.param("ssh://a@b@c", id="two hosts"),
        pytest.param("ssh://me:secret@box:port", id="a password, and no port"),
        pytest.param("ssh://box/~you/x", id="the home folder of somebody else"),
        pytest.param("ssh://box/%ff", id="a folder that is no text"),
        pytest.param("slurm://host/shared", id="a host where Slurm has none"),
        pytest.param("slurm:///shared?minutes=soon", id="minutes that are no number"),
        pytest.param("slurm:///shared?cluster=debug", id="a cluster that runs nothing of its own"),
        pytest.param("ray://head/shared", id="no port of the dashboard"),
        pytest.param("ray://head:8265", id="no folder that is shared with Ray"),
        pytest.param("ray://head:8265/shared?cpus=1", id="an option where there is none"),
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
    places.keep(tmp_path, "box", places.where("ssh://me@box"))
    with pytest.raises(RunError, match="is that of ssh://me@box"):
        places.keep(tmp_path, "box", places.where("ssh://other"))
    assert places.found(tmp_path, "box").host == "me@box"
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


@pytest.mark.parametrize(
    ("deed", "name", "address"), [("list", "box", ""), ("remove", "box", "ssh://box"), ("check", "box", "ssh://box")]
)
def test_a_word_too_many_is_refused_instead_of_ignored(tmp_path, deed, name, address):
    places.keep(tmp_path, "box", places.where("ssh://box"))
    [(_, place, *_)] = going.commands()
    given = Namespace(deed=deed, name=name, address=address, json=False)
    with pytest.raises(RunError, match=f"belongs to no place {deed}"):
        place(SimpleNamespace(folder=tmp_path), given)
    assert [*places.named(tmp_path)] == ["box"]
