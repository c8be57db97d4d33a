"""The door as it stands when the server starts: the names it answers to, its token, and the link to it."""

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import psutil
from starlette.middleware import Middleware
from streamlit import cli_util, config
from streamlit.web.server import server_util

from specs import RunError
from ui.server import people
from ui.server import token as tokens
from ui.server.guards import OwnPages, WithToken

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Door:
    """Decides who is let in, from the address that the server listens on and from who uses the machine."""

    def __init__(self) -> None:
        """Decide; a setting that cannot be used ends the process in one sentence."""
        address = str(config.get_option("server.address") or "0.0.0.0")  # noqa: S104  (what Streamlit then binds)
        self.address = address
        hosts = dict.fromkeys((*_LOOPBACK_NAMES, *config.get_option("server.allowedHosts"), *own_names(address)))
        # Streamlit checks its websocket against the same list.
        config.set_option("server.allowedHosts", list(hosts))
        try:
            self.token = tokens.wanted(is_reachable=not is_loopback(address), others=people.others)
        except RunError as error:
            sys.exit(str(error))
        self.guards = [Middleware(OwnPages)]
        if self.token:
            self.guards.append(Middleware(WithToken, token=self.token))

    @asynccontextmanager
    async def opened(self, _app: object) -> AsyncIterator[dict[str, Any]]:
        """Say where the server is as soon as it listens, and open the browser there.

        With a token it opens none: everybody on the machine can read the command line of a browser.
        """
        # Its lines at this level repeat the address, and name every connection.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        link = self.link()
        sys.stdout.write(f"LoRAFit: {link}\n")
        sys.stdout.flush()
        if not self.token and not config.get_option("server.headless"):
            asyncio.get_running_loop().call_soon(cli_util.open_browser, link)
        yield {}

    def link(self) -> str:
        """Return the address of the server, with its token."""
        shown = "localhost" if is_loopback(self.address) else self.address
        url = server_util.get_url(socket.gethostname() if is_wildcard(self.address) else shown)
        return f"{url}/?{urlencode({'token': self.token.text})}" if self.token else url


def own_names(address: str) -> tuple[str, ...]:
    """Return the names that a server on this address is reached by from other machines, without asking any."""
    if is_loopback(address):
        return ()
    if not is_wildcard(address):
        return (address,)
    entries = (entry for card in psutil.net_if_addrs().values() for entry in card if entry.family in _INTERNET)
    return (socket.gethostname(), *(entry.address.partition("%")[0] for entry in entries))


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_wildcard(address: str) -> bool:
    """Return whether an address stands for all of the machine's own."""
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False


_INTERNET = (socket.AF_INET, socket.AF_INET6)
