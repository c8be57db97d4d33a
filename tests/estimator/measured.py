"""Where the measured rows lie."""

from catalog.paths import assets

FOLDER = assets() / "measured"
