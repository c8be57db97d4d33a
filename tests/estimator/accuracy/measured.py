"""Where the measured rows are stored."""

from specs.paths import assets

FOLDER = assets() / "measured"
