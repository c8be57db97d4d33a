"""Serve the app on port 8501, or on the next free port, and say which."""

import argparse
import os
import socket
import sys
from pathlib import Path

from streamlit.web.cli import main as streamlit

import ui.plan.planning  # noqa: F401  (imported here so that the first visitor does not have to wait for it)

REPO = Path(__file__).resolve().parent.parent
FIRST_PORT = 8501  # Streamlit's own default
TRIES = 100


def is_free(port: int) -> bool:
    """Return whether a server can listen on this port of the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(first: int) -> int | None:
    """Return the first free port from ``first`` on, or None if all that were tried are taken."""
    return next((port for port in range(first, min(first + TRIES, 65_536)) if is_free(port)), None)


def main() -> int:
    """Choose the port and serve until the server ends; return the exit status. The server prints its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="the port to try first")
    arguments, rest = parser.parse_known_args()
    if not 1 <= arguments.port <= 65_535:
        print(f"--port: must lie between 1 and 65535, got {arguments.port}. Leave it out to use 8501.", file=sys.stderr)
        return 2
    port = free_port(arguments.port)
    if port is None:
        print(f"--port: all {TRIES} ports from {arguments.port} on are taken. Give another one.", file=sys.stderr)
        return 2
    if port != arguments.port:
        print(f"Port {arguments.port} is busy; using {port} instead.", flush=True)
    os.chdir(REPO)
    streamlit(["run", "app.py", f"--server.port={port}", *rest], standalone_mode=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
