"""The door in a real browser: a stranger sees a form, the token opens the page, and nothing comes from elsewhere."""

import signal
import subprocess

import pytest
from playwright.sync_api import expect

from scripts.browser import settle
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-our-own"  # noqa: S105 - of this test


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("guarded") / "runs", TOKEN)
    yield server
    server.kill()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_a_stranger_sees_the_form_and_the_token_opens_the_page_for_good(guarded, chromium, violations, width, scheme):
    page = chromium.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{guarded.url}/runs?range=All")
    expect(page.get_by_role("status")).to_contain_text("must be the one in the link")
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Token").fill("another")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("got another one")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button").click()
    settle(page)
    page.reload()
    settle(page)
    expect(page.get_by_text("No runs yet")).to_be_visible()
    assert TOKEN not in page.url
    assert all(url.startswith((guarded.url, "blob:", "data:")) for url in asked)
    chromium.clear_cookies()
    page.goto(f"{guarded.url}/?token={TOKEN}")
    settle(page)
    assert page.url == f"{guarded.url}/"
    chromium.clear_cookies()
    page.close()


def test_ctrl_c_ends_the_server_while_a_page_is_open(guarded, chromium):
    page = chromium.new_page()
    page.goto(f"{guarded.url}/learn?token={TOKEN}")
    settle(page)
    guarded.process.send_signal(signal.SIGINT)
    try:
        guarded.process.wait(20)
    except subprocess.TimeoutExpired:
        pytest.fail("the server waited for the open page")
    assert "Traceback" not in guarded.log
    assert guarded.log.count(TOKEN) == 1
    page.close()
    chromium.clear_cookies()
