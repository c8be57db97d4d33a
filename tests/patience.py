"""How long a test waits for what it started."""

PATIENCE = 240
"""Seconds; importing the training stack alone takes up to half a minute on a busy machine of two cores."""
