"""The MCP server, ``python -m lorafit.mcp``: a client starts it and talks to it over its standard input and output.

It listens on no network. What starts a run is there only with ``--allow-start``.
"""

import importlib
import importlib.util
from collections.abc import Sequence

from specs import CatalogError
from specs.doors.door import Parser, door, run_and_exit


@door
def main(arguments: Sequence[str]) -> int:
    """Serve one client until it closes the connection; return the exit status."""
    parser = Parser(prog="python -m lorafit.mcp", description="Serve LoRAFit's tools to an MCP client over stdio.")
    parser.add_argument(
        "--allow-start", action="store_true", help="let the client start runs; without, it can only look and compute"
    )
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("mcp") is None:
        raise CatalogError("mcp", "is a package that is not installed here", None, "Run make mcp")
    # The package takes a second to import, and need not be installed.
    importlib.import_module("lorafit.server").serve(allow_start=given.allow_start)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
