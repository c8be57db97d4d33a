"""Set-up, server start and upkeep: what the Makefile calls."""
