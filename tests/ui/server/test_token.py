"""Who is asked for a token, and what of it ever shows."""

import os

import pytest

from specs import RunError
from ui.server import people, token
from ui.server.door import is_loopback, own_names
from ui.server.token import Token


@pytest.fixture(autouse=True)
def no_token_set(monkeypatch):
    monkeypatch.delenv(token.VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("is_reachable", "others", "asked"),
    [
        pytest.param(False, set(), False, id="one person, this machine alone"),
        pytest.param(False, {"ada"}, True, id="another login"),
        pytest.param(True, set(), True, id="other machines reach it"),
    ],
)
def test_a_token_is_asked_for_where_somebody_else_reaches_the_page(is_reachable, others, asked):
    assert bool(token.wanted(is_reachable=is_reachable, others=lambda: others)) is asked


def test_every_start_makes_another_token():
    made = [token.wanted(is_reachable=True, others=set) for _ in range(2)]
    assert made[0].text != made[1].text
    assert len(made[0].text) == 48


def test_a_token_can_be_switched_off_and_chosen_and_no_child_inherits_it(monkeypatch):
    monkeypatch.setenv(token.VARIABLE, "off")
    assert token.wanted(is_reachable=True, others=set) is None
    monkeypatch.setenv(token.VARIABLE, "a-token-of-my-own")
    assert token.wanted(is_reachable=False, others=set).text == "a-token-of-my-own"
    assert token.VARIABLE not in os.environ


def test_a_short_token_is_refused_without_repeating_it(monkeypatch):
    monkeypatch.setenv(token.VARIABLE, "hunter2")
    with pytest.raises(RunError, match="at least 16 characters") as caught:
        token.wanted(is_reachable=False, others=set)
    assert "hunter2" not in str(caught.value)


def test_a_token_shows_only_where_it_is_asked_for():
    secret = Token("0123456789abcdef")
    assert secret.text not in f"{secret!r} {secret} {secret.cookie_name} {secret.cookie_value}"
    assert secret.is_given_by("0123456789abcdef")
    assert not secret.is_given_by("0123456789abcdeé")
    assert secret.is_kept_in(secret.cookie_value)
    assert not secret.is_kept_in("")


@pytest.mark.parametrize(
    ("uid", "shell", "expected"),
    [
        pytest.param(1000, "/bin/bash", True, id="a person"),
        pytest.param(1001, "/usr/sbin/nologin", False, id="nobody can log in"),
        pytest.param(101, "/bin/bash", False, id="a service with a shell"),
        pytest.param(65_534, "/bin/sh", False, id="nobody"),
    ],
)
def test_a_login_is_an_account_of_a_person_with_a_shell(uid, shell, expected):
    assert people.has_login(uid, shell) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("192.0.2.7", False), ("::", False)],
)
def test_only_this_machine_reaches_a_loopback_address(address, expected):
    assert is_loopback(address) is expected


def test_a_server_on_all_addresses_answers_to_each_of_them():
    assert own_names("127.0.0.1") == ()
    assert own_names("192.0.2.7") == ("192.0.2.7",)
    assert "127.0.0.1" in own_names("::")


@pytest.mark.parametrize(
    ("password", "has_key", "expected"),
    [
        pytest.param("$y$j9T$hash", False, True, id="a password"),
        pytest.param("", False, True, id="no password asked"),
        pytest.param("!", False, False, id="locked, as images of containers have it"),
        pytest.param("*", False, False, id="never had one"),
        pytest.param("!", True, True, id="locked, with a key"),
    ],
)
def test_an_account_without_password_and_key_lets_nobody_in(tmp_path, password, has_key, expected):
    shadow = tmp_path / "shadow"
    shadow.write_text(f"root:*:20263::::::\nada:{password}:20263::::::\n")
    (tmp_path / ".ssh").mkdir()
    if has_key:
        (tmp_path / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA")
    assert people.can_log_in("ada", tmp_path, shadow) is expected


def test_an_account_of_which_this_user_may_not_know_is_a_persons(tmp_path):
    assert people.can_log_in("ada", tmp_path, tmp_path / "unreadable")
