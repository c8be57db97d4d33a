"""Where the measured rows lie."""

from specs.paths import assets

FOLDER = assets() / "measured"
