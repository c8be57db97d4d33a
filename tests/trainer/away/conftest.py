import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.trainer.away.sshd import PROGRAM, Sshd
from trainer.away import parcel
from trainer.away.connection import Connection
from trainer.runs.places import Where, where


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    if PROGRAM is None:
        assert os.environ.get("CI") != "true", "CI must have the package openssh-server"
        pytest.skip("needs sshd: install the package openssh-server")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    before = os.environ.get("LORAFIT_SSH")
    os.environ["LORAFIT_SSH"] = server.command
    yield server
    Connection(where("ssh://box")).drop()
    server.close()
    if before is None:
        del os.environ["LORAFIT_SSH"]
    else:
        os.environ["LORAFIT_SSH"] = before


def set_up(root: Path) -> Where:
    """Return a place in a folder of this machine that ssh leads to, with the packages of this environment."""
    packages = root / parcel.environment()
    packages.parent.mkdir(parents=True)
    packages.symlink_to(Path(sys.prefix), target_is_directory=True)
    packages.with_name(f"{packages.name}.ready").touch()
    return where(f"ssh://box{quote(str(root))}")


@pytest.fixture(scope="session")
def box(sshd, tmp_path_factory) -> Where:
    """A place under an awkward name."""
    assert sshd.command
    return set_up(tmp_path_factory.mktemp("there") / "it's a $HOME `of` runs")
